"""Products of deviations and weights, with fp16 numbers that are summed in fp32.

Small fp16 numbers (below 6e-5) have few digits or none, and large ones (above 65,504) do not exist.
Deviations get smaller or larger from layer to layer, as the weights have it. Therefore each frame
is multiplied before the product by a power of two, and divided by it afterwards. The power depends
on the frame and the weights only: other frames of a batch change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

__all__ = ["HalfProducts", "magnitude"]

Tensor = torch.Tensor
#: Bound on fp16 numbers before and after a product; a quarter of the largest.
_ROOM = 2.0**14
#: The exponent of a float32.
_EXPONENT = 0x7F800000
_TINY = 1e-30


class _Kept(NamedTuple):
    """A weight tensor in fp16.

    Attributes
    ----------
    weight : torch.Tensor
        Kept, or its id could pass on to another tensor.
    half : torch.Tensor
        ``weight`` times ``factor``.
    room : torch.Tensor
        The largest magnitude of deviations that go in, for outputs within fp16.
    """

    weight: Tensor
    half: Tensor
    factor: Tensor
    room: Tensor


class HalfProducts:
    """Convolutions and linear layers on deviations, without their bias.

    A CPU rounds numbers to fp16 and computes in float32 or float64.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def __call__(
        self,
        func: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        rest: Any,
        bound: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Return the product in the type of the deviations.

        Parameters
        ----------
        func : callable
            Of torch: ``conv1d``, ``conv2d`` or ``linear``.
        x : torch.Tensor of shape (n_frames, ...)
        weight : torch.Tensor
        rest : sequence
            Further arguments of ``func``, after the bias.
        bound : callable, optional
            Returns a bound of the magnitudes of each frame, with the axes of ``x``.
        """
        kept = self._kept.get(id(weight)) or self._keep(weight)
        channels = -1 if func is torch.nn.functional.linear else 1
        largest = magnitude(x, channels) if bound is None else bound()
        factor = _power_of_two(kept.room / largest.clamp(_TINY))
        narrow = (x * factor).half()
        if x.is_cuda:
            made = func(narrow, kept.half, None, *rest)
        else:
            made = func(narrow.to(x.dtype), kept.half.to(x.dtype), None, *rest).half()
        return made / (factor * kept.factor).to(x.dtype)

    def _keep(self, weight: Tensor) -> _Kept:
        magnitudes = weight.float().abs()
        factor = _power_of_two(1 / magnitudes.max().clamp(_TINY))
        # At least 1, because the numbers that go in have to fit, too.
        most = (magnitudes.flatten(1).sum(1).max() * factor).clamp(1)
        kept = _Kept(weight, (weight.float() * factor).half(), factor, _ROOM / most)
        self._kept[id(weight)] = kept
        return kept


def magnitude(x: Tensor, channels: int = 1) -> Tensor:
    """Return the largest magnitude of each frame; it has the axes of ``x``.

    Over the axis of channels first: a compiler does this together with the step that makes them.
    """
    largest = torch.linalg.vector_norm(x, torch.inf, channels, keepdim=True)
    return largest.amax(tuple(range(1, x.ndim)), keepdim=True)


def _power_of_two(x: Tensor) -> Tensor:
    """Return the largest power of two that is not above positive numbers, exactly."""
    return (x.float().view(torch.int32) & _EXPONENT).view(torch.float32)
