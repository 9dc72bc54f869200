"""The two passes of differential inference: a tensor subclass walks through an autoencoder.

The autoencoder's own ``forward`` runs on a :class:`_Carried`. Each of torch's functions that it
calls becomes a ``step`` of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fmritok.errors import FmritokError, expected
from fmritok.tokenizers.vae.delta_products import magnitude
from fmritok.tokenizers.vae.delta_rules import (
    FORMULAS,
    PRODUCTS,
    ROOTS,
    RULES,
    SLOPES,
    SUMMED,
    TERMS,
    divide,
)

if TYPE_CHECKING:
    from fmritok.tokenizers.vae.delta import DeltaEncoder

__all__ = ["BasePass", "DeviationPass", "Note"]

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
    "device dim dtype is_complex is_contiguous is_cpu is_cuda is_floating_point is_meta is_mps "
    "is_xla layout len ndim numel requires_grad shape size stride".split()
)


class _Carried(torch.Tensor):
    """A tensor on its way through a pass, which does its operations.

    Attributes
    ----------
    value : torch.Tensor
        The base's value, or the frames' deviations from it.
    walk : _Pass
    whole : torch.Tensor, optional
        Base and deviation together, where they were computed together.
    bound : callable, optional
        Returns a bound of the magnitudes of each frame's deviations, which are not read for it.
    """

    value: Tensor
    walk: _Pass
    whole: Tensor | None
    bound: Callable[[], Tensor] | None

    @staticmethod
    def __new__(cls, value: Tensor, walk: _Pass, whole: Tensor | None = None) -> _Carried:
        made: _Carried = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.shape, dtype=value.dtype, device=value.device
        )
        made.value, made.walk, made.whole, made.bound = value, walk, whole, None
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        name = name.strip("_") if name.startswith("__") else name
        named = dict(kwargs or {})
        if named.pop("inplace", False):
            raise _refusal(f"{name} in place")
        if name in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **named)
        if name in _NOTHING:
            return args[0]
        if name in FORMULAS:
            made = FORMULAS[name](*args, **named)
            if made is not NotImplemented:
                return made
        if name in ("div", "truediv") and not isinstance(args[0], _Carried):
            return FORMULAS["rtruediv"](args[1], args[0])
        return _carried((args, named))[0].walk.step(name, func, args, named)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise _refusal(str(func))


class _Pass:
    """One walk through the encoder."""

    def __init__(self, encoder: DeltaEncoder) -> None:
        self.encoder = encoder

    def through(self, images: Tensor) -> Tensor:
        return self.encoder.encode(_Carried(images, self)).value  # type: ignore[attr-defined, no-any-return]

    def wrap(self, made: Any, whole: Any = None) -> Any:
        def carried(a: Any, b: Any) -> Any:
            return _Carried(a, self, b) if isinstance(a, Tensor) else a

        if whole is None:
            return tree_map(lambda a: carried(a, None), made)
        return tree_map(carried, made, whole)

    def step(self, name: str, func: Any, args: Any, named: dict[str, Any]) -> Any:
        """Do an operation that the encoder asks for."""
        raise NotImplementedError


class BasePass(_Pass):
    """Computes the base images; notes what non-linear steps get."""

    def __init__(self, encoder: DeltaEncoder) -> None:
        super().__init__(encoder)
        self.notes: list[Note] = []

    def step(self, name: str, func: Any, args: Any, named: dict[str, Any]) -> Any:
        """Do it on the base images."""
        carried = _carried((args, named))
        plain, plain_named = _values((args, named), carried[0].value.dtype)
        made = func(*plain, **plain_named)
        if name == "conv2d" and self.encoder.channels_last:
            made = made.contiguous(memory_format=torch.channels_last)
        if not _is_linear(name, args, named):
            known = name in RULES or _is_product(name, named)
            results = [] if known else _new_numbers(name, made, named)
            noted = [one.value for one in carried] + results
            if name in TERMS:
                noted.append(TERMS[name](noted[0]))
            self.notes.append(tuple(value.to(self.encoder.dtype) for value in noted))
        return self.wrap(made)


class DeviationPass(_Pass):
    """Computes the frames' deviations; non-linear steps take the base's input from the notes."""

    def __init__(self, encoder: DeltaEncoder, notes: Sequence[Note]) -> None:
        super().__init__(encoder)
        self.notes: Iterator[Note] = iter(notes)

    def step(self, name: str, func: Any, args: Any, named: dict[str, Any]) -> Any:
        """Do it on the deviations."""
        if not _is_linear(name, args, named):
            return self.non_linear(name, func, args, named, next(self.notes))
        plain, plain_named = _values((args, named), self.encoder.dtype)
        if name in _WEIGHTED:
            made = self.encoder.product(func, plain[0], plain[1], plain[3:], args[0].bound)
            return self.wrap(made)
        whole = self.whole(func, args, named)
        if name == "pad":  # what is added does not deviate
            plain, plain_named = plain[:2], {}
        elif name in _SUMS:  # constants do not either
            plain = [_zero(p) if _is_constant(a) else p for a, p in zip(args, plain, strict=True)]
        return self.wrap(func(*plain, **plain_named), whole)

    def whole(self, func: Any, args: Any, named: dict[str, Any]) -> Any:
        """Apply a linear step to base and deviation together, where all inputs have them."""
        if any(one.whole is None for one in _carried((args, named))):
            return None
        leaves, tree = tree_flatten((args, named))
        together = [a.whole if isinstance(a, _Carried) else a for a in leaves]
        args, named = _values(tree_unflatten(together, tree), self.encoder.dtype)
        return func(*args, **named)

    def non_linear(self, name: str, func: Any, args: Any, named: dict[str, Any], note: Note) -> Any:
        """Compute ``f(b + d) - f(b)`` by a rule, if there is one."""
        plain, plain_named = _values((args, named), self.encoder.dtype)
        carried = _carried((args, named))
        wholes = [one.whole for one in carried]
        if _is_product(name, named):
            more = wholes if PRODUCTS[name] is divide else ()
            made = PRODUCTS[name](note[0], plain[0], note[1], plain[1], *more)
        elif name in RULES:
            if name in ROOTS:
                plain_named["whole"] = wholes[0]
            if name in TERMS:
                plain_named["term"] = note[1]
            made = RULES[name](note[0], *plain, **plain_named)
        else:
            return self.wrap(self.without_rule(name, func, (args, named), note))
        if name in SLOPES:
            found = self.wrap(made)
            found.bound = lambda: SLOPES[name] * magnitude(plain[0])
            return found
        if name not in SUMMED:
            return self.wrap(made)
        pairs = zip(carried, wholes, note, strict=True)
        factors = [b + one.value if whole is None else whole for one, whole, b in pairs]
        return self.wrap(made, func(*factors, *plain[len(factors) :], **plain_named))

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
    if _is_product(name, named):
        return len(leaves) - constants == 1
    return name in _SAME and constants == 0


def _is_product(name: str, named: dict[str, Any]) -> bool:
    """Whether a step is a plain product or quotient; one that rounds is not."""
    return name in PRODUCTS and not named


def _is_constant(value: Any) -> bool:
    return not isinstance(value, _Carried)


def _new_numbers(name: str, made: Any, named: dict[str, Any]) -> list[Tensor]:
    """Return the results of a step without a rule. They have to be new floating-point tensors.

    A change in place would have to reach the base, the deviation and all views of both. Booleans,
    integers and Python's numbers have no deviation.
    """
    results = tree_flatten(made)[0]
    in_place = name.endswith("_") or name == "setitem" or "out" in named
    if in_place or not all(isinstance(a, Tensor) and a.is_floating_point() for a in results):
        raise _refusal(name)
    return results


def _refusal(name: str) -> FmritokError:
    return FmritokError(
        expected("Autoencoder", "with --arithmetic delta", "operations that return new tensors of "
                 "floating-point numbers", name, "Use --arithmetic fp32.")
    )  # fmt: skip


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
