"""Store dtypes of tokens: int8 residuals around the mean of each feature, or float16.

A token is a large constant (the anatomy) plus small dynamics: on real BOLD the temporal standard
deviation of a latent is well below a hundredth of its value. int8 residuals spend all seven bits
on the dynamics. They are more accurate and smaller than float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from fmritok.device import fetch, send
from fmritok.errors import RunError, expected

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PRECISIONS", "Precision", "StoredRun", "dequantize", "store_precision"]

Precision = Literal["int8", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class StoredRun:
    """Tokens and statistics of one run in their stored form.

    Attributes
    ----------
    tokens : np.ndarray of shape (n_frames, n_tokens, dim), int8 or float16
        Stored values. With int8, ``value = mean + scale * tokens``.
    mean, std : np.ndarray of shape (n_tokens, dim), float32
        Mean and standard deviation over the run's frames.
    scale : np.ndarray of shape (n_tokens, dim), float32, or None
        Value of one integer step: largest deviation from the mean / 127. None for float16.
    """

    tokens: npt.NDArray[np.int8] | npt.NDArray[np.float16]
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32] | None


class Frames(Protocol):
    """An array of frames that supports slices, in memory or in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_frames, n_tokens, dim)."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: slice, /) -> npt.NDArray[np.float32]: ...


def store_precision(
    values: Frames, precision: Precision, *, where: str = "tokens", device: str = "cpu"
) -> StoredRun:
    """Convert the tokens of one run to the store dtype.

    Parameters
    ----------
    values : np.ndarray or ScratchArray of shape (n_frames, n_tokens, dim), float32
        Read in blocks of frames, several times.
    precision : {"int8", "float16"}
    where : str
        Name of the run for errors.
    device : str
        Device of torch that computes. All devices give the same bytes: sums run frame by frame, and
        every operation rounds as IEEE says.

    Raises
    ------
    RunError
        If a value is not finite, or overflows float16.
    """
    import torch

    with torch.inference_mode():
        blocks = _Blocks(values, device)
        mean, std, low, high = _statistics(blocks, where)
        if precision == "float16":
            largest = float(torch.maximum(low.abs().max(), high.abs().max()))
            if largest > float(np.finfo(np.float16).max):
                raise RunError(
                    expected("Tokens of", where, "values below 65504 for float16",
                             f"{largest:g}", "Use --store-dtype int8.")
                )  # fmt: skip
            halves = np.empty(values.shape, np.float16)
            for frames, block in blocks:
                halves[frames] = fetch(block.half()).numpy()
            return StoredRun(halves, _array(mean), _array(std), None)
        scale = torch.maximum(high - mean, mean - low) / mean.new_tensor(127)
        step = torch.where(scale > 0, scale, 1)
        tokens = np.empty(values.shape, np.int8)
        for frames, block in blocks:
            steps = (block - mean).div_(step).round_().clamp_(-127, 127)
            tokens[frames] = fetch(steps.to(torch.int8)).numpy()
        return StoredRun(tokens, _array(mean), _array(std), _array(scale))


def dequantize(
    tokens: npt.NDArray[np.generic],
    mean: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """Convert stored tokens to float32 values.

    Parameters
    ----------
    tokens : np.ndarray of shape (..., n_tokens, dim), int8 or float16
    mean, scale : np.ndarray of shape (n_tokens, dim), float32
        ``scale`` is None for float16.
    """
    values = tokens.astype(np.float32)
    return values if scale is None else mean + scale * values


def _statistics(blocks: _Blocks, where: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, standard deviation, minimum and maximum of each feature, float32."""
    import torch

    # Sum in float64: float32 has few digits for deviations of 0.01 around a constant of 3.
    total: Any = 0
    low: Tensor | None = None
    high: Tensor | None = None
    for _, block in blocks:
        for frame in block:  # in this order on every device
            total = total + frame.double()
        least, most = block.aminmax(dim=0)
        low = least if low is None else torch.minimum(low, least)
        high = most if high is None else torch.maximum(high, most)
    assert low is not None
    assert high is not None
    if not bool(total.isfinite().all()):
        bad = sum(int((~block.isfinite()).sum()) for _, block in blocks)
        raise RunError(
            expected("Tokens of", where, "finite values", f"{bad} NaN or infinite values",
                     "Check the run's intensities; with bf16, try fp32.")
        )  # fmt: skip
    # A tensor, because a GPU multiplies by the inverse of a plain number.
    count = total.new_tensor(len(blocks))
    exact_mean = total / count
    squares = torch.zeros_like(total)
    for _, block in blocks:
        for frame in block:
            squares += (frame.double() - exact_mean).square_()
    # A constant feature must have a deviation of exactly 0, also after rounding of its mean.
    constant = high == low
    mean = torch.where(constant, low, exact_mean.float())
    std = torch.where(constant, 0, (squares / count).sqrt_().float())
    return mean, std, low, high


class _Blocks:
    """The frames of a run on a device, block by block.

    Parameters
    ----------
    values : Frames
    device : str
    """

    def __init__(self, values: Frames, device: str) -> None:
        import torch

        self._values, self._device = values, torch.device(device)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        import torch

        for start in range(0, len(self), _FRAMES_AT_ONCE):
            frames = slice(start, start + _FRAMES_AT_ONCE)
            block = np.require(self._values[frames], np.float32, "W")
            yield frames, send(torch.from_numpy(block), self._device)


def _array(x: Tensor) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = fetch(x).numpy()
    return values
