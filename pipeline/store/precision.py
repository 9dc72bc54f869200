"""Store dtypes of tokens: int8 residuals around the mean of each feature, or float16.

A token is a large constant (the anatomy) plus small dynamics: on real BOLD the temporal standard
deviation of a latent is well below a hundredth of its value. int8 residuals spend all seven bits
on the dynamics. They are more accurate and smaller than float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected

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


def store_precision(values: Frames, precision: Precision, *, where: str = "tokens") -> StoredRun:
    """Convert the tokens of one run to the store dtype.

    Parameters
    ----------
    values : np.ndarray or ScratchArray of shape (n_frames, n_tokens, dim), float32
        Read in blocks of frames, several times.
    precision : {"int8", "float16"}
    where : str
        Name of the run for errors.

    Raises
    ------
    RunError
        If a value is not finite, or overflows float16.
    """
    n_frames = len(values)
    # Sum in float64: float32 has few digits for deviations of 0.01 around a constant of 3.
    total = np.zeros(values.shape[1:], np.float64)
    low = np.full(values.shape[1:], np.inf, np.float32)
    high = np.full(values.shape[1:], -np.inf, np.float32)
    for _, block in _blocks(values):
        total += block.sum(axis=0, dtype=np.float64)
        np.minimum(low, block.min(axis=0), out=low)
        np.maximum(high, block.max(axis=0), out=high)
    if not np.isfinite(total).all():
        bad = sum(int((~np.isfinite(block)).sum()) for _, block in _blocks(values))
        raise RunError(
            expected("Tokens of", where, "finite values", f"{bad} NaN or infinite values",
                     "Check the run's intensities; with bf16, try fp32.")
        )  # fmt: skip
    exact_mean = total / n_frames
    mean = exact_mean.astype(np.float32)
    squares = np.zeros_like(total)
    for _, block in _blocks(values):
        squares += np.square(block - exact_mean).sum(axis=0)
    # A constant feature must have a deviation of exactly 0, also after rounding of its mean.
    constant = high == low
    mean[constant] = low[constant]
    squares[constant] = 0
    std = np.sqrt(squares / n_frames).astype(np.float32)

    if precision == "float16":
        largest = float(max(np.abs(low).max(), np.abs(high).max()))
        if largest > float(np.finfo(np.float16).max):
            raise RunError(
                expected("Tokens of", where, "values below 65504 for float16",
                         f"{largest:g}", "Use --store-dtype int8.")
            )  # fmt: skip
        halves = np.empty(values.shape, np.float16)
        for frames, block in _blocks(values):
            halves[frames] = block
        return StoredRun(halves, mean, std, None)

    scale = (np.maximum(high - mean, mean - low) / np.float32(127)).astype(np.float32)
    step = np.where(scale > 0, scale, np.float32(1))
    tokens = np.empty(values.shape, np.int8)
    for frames, block in _blocks(values):
        tokens[frames] = np.clip(np.rint((block - mean) / step), -127, 127)
    return StoredRun(tokens, mean, std, scale)


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


def _blocks(values: Frames) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    for start in range(0, len(values), _FRAMES_AT_ONCE):
        frames = slice(start, start + _FRAMES_AT_ONCE)
        yield frames, values[frames]
