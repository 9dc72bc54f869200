"""Differential inference: an image autoencoder on the deviations from one image.

The frames of a run differ from their mean by half a percent. Rounding to fp16 is relative to the
values, so plain fp16 loses a tenth of the time courses. Here the mean image goes through the
encoder once, in float64 (the base pass). The frames' deviations from it follow with fp16 products
(the deviation pass), whose rounding is relative to the deviations.

Both passes run the autoencoder's own ``forward`` on a tensor subclass. In the base pass, every
non-linear step notes its input ``b``. In the deviation pass, it takes ``b`` from the notes and
returns ``f(b + d) - f(b)`` in fp32, by a rule of :mod:`fmritok.tokenizers.vae.delta_rules`. Linear
steps need no base: ``A(b + d) + c - (A b + c) = A d``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fmritok.tokenizers.vae.delta_rules import FORMULAS, PRODUCTS, RULES

__all__ = ["Base", "DeltaEncoder"]

Tensor = torch.Tensor
Note = tuple[Tensor, ...]

#: They move or add up values: the same for bases and for deviations.
_SAME = frozenset(
    "T adaptive_avg_pool2d avg_pool2d cat chunk expand flatten getitem mT mean movedim narrow neg "
    "permute pixel_shuffle pixel_unshuffle repeat_interleave reshape select split squeeze stack "
    "sum transpose unbind unflatten unsqueeze view".split()
)
_WEIGHTED = frozenset(["conv1d", "conv2d", "linear"])
_SUMS = frozenset(["add", "iadd", "isub", "radd", "rsub", "sub"])
#: Casts and copies. Each pass keeps its own type, whatever the model asks for.
_NOTHING = frozenset(
    "bfloat16 clone contiguous detach double dropout float half to type type_as".split()
)
#: Questions about a tensor.
_ABOUT = frozenset(
    "device dim dtype is_contiguous is_cuda is_floating_point layout len ndim numel "
    "requires_grad shape size stride".split()
)


@dataclass(frozen=True)
class Base:
    """What the base pass finds out about some images.

    Attributes
    ----------
    latents : torch.Tensor of shape (n_images, channels, cells, cells), float64
    notes : list of tuple of torch.Tensor
        Inputs of the non-linear steps, in order. The first axis is the image.
    """

    latents: Tensor
    notes: Sequence[Note]

    def notes_of(self, image: int) -> list[Note]:
        """Return the notes of one image."""
        return [tuple(value[image : image + 1] for value in note) for note in self.notes]


class DeltaEncoder:
    """An encoder of images that are close to one image.

    Parameters
    ----------
    encode : callable
        From images (n, channels, height, width) to latents. It may use any of torch's functions;
        one without a rule is computed in ``dtype`` as ``f(b + d) - f(b)``, with a warning.
    half : bool
        Whether products of deviations and weights take fp16 numbers and add them up in fp32. A
        CPU rounds the numbers to fp16 and computes in ``dtype``.
    dtype : torch.dtype
        Of all other steps of the deviation pass.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        *,
        half: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.encode, self.half, self.dtype = encode, half, dtype
        self._narrow: dict[int, tuple[Tensor, Tensor]] = {}
        self._unknown: set[str] = set()

    def base(self, images: Tensor) -> Base:
        """Encode images in float64 (in float32 where a device has no float64)."""
        walk = _BasePass(self)
        exact = torch.float32 if images.device.type == "mps" else torch.float64
        return Base(walk.through(images.to(exact)), walk.notes)

    def deviations(self, notes: Sequence[Note], deviations: Tensor) -> Tensor:
        """Encode the deviations of frames from one image.

        Parameters
        ----------
        notes : list
            Of the image: :meth:`Base.notes_of`.
        deviations : torch.Tensor of shape (n_frames, channels, height, width)

        Returns
        -------
        torch.Tensor of shape (n_frames, channels, cells, cells)
            The deviations of the frames' latents from the image's.
        """
        return _DeviationPass(self, notes).through(deviations.to(self.dtype))

    def product(self, func: Callable[..., Tensor], x: Tensor, weight: Tensor, rest: Any) -> Tensor:
        """Apply the weights of a convolution or linear layer to deviations, without the bias."""
        if not self.half:
            return func(x, weight.to(self.dtype), None, *rest)
        kept = self._narrow.get(id(weight))
        if kept is None:  # with the weight itself, or its id could pass on to another tensor
            kept = self._narrow[id(weight)] = weight, weight.half()
        if x.is_cuda:
            return func(x.half(), kept[1], None, *rest).to(self.dtype)
        emulated = func(x.half().to(self.dtype), kept[1].to(self.dtype), None, *rest)
        return emulated.half().to(self.dtype)

    def warn_of(self, name: str) -> None:
        """Say once that a step has no rule."""
        if name not in self._unknown:
            self._unknown.add(name)
            warnings.warn(f"delta has no rule for {name}: it is computed without one, in "
                          f"{self.dtype}.", stacklevel=2)  # fmt: skip


class _Carried(torch.Tensor):
    """A tensor on its way through a pass, which does its operations."""

    value: Tensor
    walk: _Pass

    @staticmethod
    def __new__(cls, value: Tensor, walk: _Pass) -> _Carried:
        made: _Carried = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.shape, dtype=value.dtype, device=value.device
        )
        made.value, made.walk = value, walk
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        name = name.strip("_") if name.startswith("__") else name
        named = dict(kwargs or {})
        if name in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **named)
        if name in _NOTHING:
            return args[0]
        if name in FORMULAS:
            return FORMULAS[name](*args, **named)
        if name in ("div", "truediv") and not isinstance(args[0], _Carried):
            return FORMULAS["rtruediv"](args[1], args[0])
        return _carried((args, named))[0].walk.step(name, func, args, named)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise NotImplementedError(f"{func} of a deviation")


class _Pass:
    """One walk through the encoder."""

    def __init__(self, encoder: DeltaEncoder) -> None:
        self.encoder = encoder

    def through(self, images: Tensor) -> Tensor:
        return self.encoder.encode(_Carried(images, self)).value  # type: ignore[attr-defined, no-any-return]

    def wrap(self, made: Any) -> Any:
        return tree_map(lambda a: _Carried(a, self) if isinstance(a, Tensor) else a, made)

    def step(self, name: str, func: Any, args: Any, named: dict[str, Any]) -> Any:
        raise NotImplementedError


class _BasePass(_Pass):
    """Computes the base images; notes what non-linear steps get."""

    def __init__(self, encoder: DeltaEncoder) -> None:
        super().__init__(encoder)
        self.notes: list[Note] = []

    def step(self, name: str, func: Any, args: Any, named: dict[str, Any]) -> Any:
        carried = _carried((args, named))
        plain, plain_named = _values((args, named), carried[0].value.dtype)
        made = func(*plain, **plain_named)
        if not _is_linear(name, args, named):
            known = name in RULES or name in PRODUCTS
            results = [] if known else [a for a in tree_flatten(made)[0] if isinstance(a, Tensor)]
            noted = [one.value for one in carried] + results
            self.notes.append(tuple(value.to(self.encoder.dtype) for value in noted))
        return self.wrap(made)


class _DeviationPass(_Pass):
    """Computes the frames' deviations; non-linear steps take the base's input from the notes."""

    def __init__(self, encoder: DeltaEncoder, notes: Sequence[Note]) -> None:
        super().__init__(encoder)
        self.notes: Iterator[Note] = iter(notes)

    def step(self, name: str, func: Any, args: Any, named: dict[str, Any]) -> Any:
        plain, plain_named = _values((args, named), self.encoder.dtype)
        if not _is_linear(name, args, named):
            note = next(self.notes)
            if name in PRODUCTS:
                made = PRODUCTS[name](note[0], plain[0], note[1], plain[1])
            elif name in RULES:
                made = RULES[name](note[0], *plain, **plain_named)
            else:
                made = self.without_rule(name, func, (args, named), note)
            return self.wrap(made)
        if name in _WEIGHTED:
            return self.wrap(self.encoder.product(func, plain[0], plain[1], plain[3:]))
        if name == "pad":  # what is added does not deviate
            plain, plain_named = plain[:2], {}
        elif name in _SUMS:  # constants do not either
            plain = [_zero(p) if _is_constant(a) else p for a, p in zip(args, plain, strict=True)]
        return self.wrap(func(*plain, **plain_named))

    def without_rule(self, name: str, func: Any, arguments: Any, note: Note) -> Any:
        """Compute the plain difference of the results with and without the deviation."""
        self.encoder.warn_of(name)
        bases = iter(note)
        leaves, tree = tree_flatten(arguments)
        full = [a.value + next(bases) if isinstance(a, _Carried) else a for a in leaves]
        args, named = tree_unflatten(_values(full, self.encoder.dtype), tree)
        return tree_map(
            lambda a: a - next(bases) if isinstance(a, Tensor) else a, func(*args, **named)
        )


def _is_linear(name: str, args: Any, named: dict[str, Any]) -> bool:
    """Whether a step with these arguments is linear in what deviates (or adds a constant)."""
    leaves = [a for a in tree_flatten((args, named))[0] if isinstance(a, Tensor)]
    constants = sum(_is_constant(a) for a in leaves)
    if name in _SUMS:
        return not named  # torch.add(..., alpha=...) has no rule
    if name in _WEIGHTED:
        return len(args) > 1 and not isinstance(args[1], _Carried) and not named
    if name == "pad":
        return len(args) < 3 or args[2] == "constant"
    if name in PRODUCTS:
        carried = len(leaves) - constants
        return carried == 1 and "rounding_mode" not in named
    return name in _SAME and constants == 0


def _is_constant(value: Any) -> bool:
    return not isinstance(value, _Carried)


def _zero(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else 0


def _carried(arguments: Any) -> list[_Carried]:
    return [a for a in tree_flatten(arguments)[0] if isinstance(a, _Carried)]


def _values(arguments: Any, dtype: torch.dtype) -> Any:
    """Return plain tensors in a type; integers and booleans stay as they are."""

    def plain(a: Any) -> Any:
        if isinstance(a, _Carried):
            return a.value
        return a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a

    return tree_map(plain, arguments)
