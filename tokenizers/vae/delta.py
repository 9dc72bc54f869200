"""Differential inference: an image autoencoder on the deviations from one image.

The frames of a run differ from their mean by half a percent. Rounding to fp16 is relative to the
values, so plain fp16 loses a tenth of the time courses. Here the mean image goes through the
encoder once (the base pass; in float64 on a CPU). The frames' deviations from it follow with fp16
products (the deviation pass), whose rounding is relative to the deviations.

Both passes run the autoencoder's own ``forward`` on a tensor subclass. In the base pass, every
non-linear step notes its input ``b``. In the deviation pass, it takes ``b`` from the notes and
returns ``f(b + d) - f(b)`` in fp32, by a rule of :mod:`fmritok.tokenizers.vae.delta_rules`. Linear
steps need no base: ``A(b + d) + c - (A b + c) = A d``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fmritok.tokenizers.vae.delta_compiled import CompiledWalk
from fmritok.tokenizers.vae.delta_products import HalfProducts
from fmritok.tokenizers.vae.delta_walk import BasePass, DeviationPass, Note

__all__ = ["Base", "DeltaEncoder"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Base:
    """What the base pass finds out about some images.

    Attributes
    ----------
    latents : torch.Tensor of shape (n_images, channels, cells, cells), float64 or float32
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
        From images (n, channels, height, width) to latents. It may use any of torch's functions
        that return new floating-point tensors. One without a rule is computed in ``dtype`` as
        ``f(b + d) - f(b)``, with a warning.
    half : bool
        Whether products of deviations and weights take fp16 numbers:
        :mod:`fmritok.tokenizers.vae.delta_products`.
    dtype : torch.dtype
        Of all other steps of the deviation pass.
    compile : bool
        Whether the deviation pass is compiled, once for each shape of deviations.
    channels_last : bool
        Memory layout of the base's convolutions. It should be that of the deviations, which is
        that of the encoder's weights.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        *,
        half: bool = True,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        self.encode, self.half, self.dtype = encode, half, dtype
        self.channels_last = channels_last
        self._walk = CompiledWalk(self._deviations) if compile else self._deviations
        self._half_product = HalfProducts()
        self._unknown: set[str] = set()

    def base(self, images: Tensor) -> Base:
        """Encode images.

        Raises
        ------
        FmritokError
            If the encoder changes tensors in place, or asks for booleans, integers or numbers.
        """
        walk = BasePass(self)
        return Base(walk.through(images.to(self._base_dtype(images.device))), walk.notes)

    def _base_dtype(self, device: torch.device) -> torch.dtype:
        """Return float64 on a CPU, elsewhere the type of the deviation pass.

        A GPU may be 64 times slower in float64. What float32 changes is the same in all frames: it
        moves the mean of a run's tokens by less than the plain encoder in float32 does.
        """
        return torch.float64 if device.type == "cpu" else self.dtype

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
        return self._walk(notes, deviations.to(self.dtype))

    def _deviations(self, notes: Sequence[Note], deviations: Tensor) -> Tensor:
        return DeviationPass(self, notes).through(deviations)

    def product(
        self,
        func: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        rest: Any,
        bound: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Apply the weights of a convolution or linear layer to deviations, without the bias."""
        if not self.half:
            return func(x, weight.to(self.dtype), None, *rest)
        return self._half_product(func, x, weight, rest, bound)

    def warn_of(self, name: str) -> None:
        """Say once that a step has no rule."""
        if name not in self._unknown:
            self._unknown.add(name)
            dtype = str(self.dtype).removeprefix("torch.")
            warnings.warn(f"delta has no rule for {name}: it is computed in {dtype} on base and "
                          "deviation together.", stacklevel=2)  # fmt: skip
