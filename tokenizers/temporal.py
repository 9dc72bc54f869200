"""Temporal processing of time courses: filtering, resampling, standardization.

All functions take and return arrays of shape (n_places, n_frames), float32. They compute in
float64, a block of places at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.quantities import counted
from fmritok.tokenizers.option_types import refused_option

__all__ = ["bandpass", "check_tr", "resample", "resampled_frames", "standardize", "varying"]

Series = npt.NDArray[np.float32]

_PLACES_AT_ONCE = 2048
#: Anti-alias filter of the published flat maps: Chebyshev type I of order 8, 0.05 dB of ripple, at
#: 0.8 of the new Nyquist frequency, as in scipy's ``decimate``.
_ANTIALIAS_ORDER, _ANTIALIAS_RIPPLE_DB, _ANTIALIAS_SHARE = 8, 0.05, 0.8
_BANDPASS_ORDER = 5


def standardize(series: Series) -> npt.NDArray[np.bool_]:
    """Z-score each place over time, in place. Constant places become 0.

    Returns
    -------
    np.ndarray of shape (n_places,), bool
        Mask of the places that vary over time.
    """
    varies = np.zeros(len(series), bool)
    for rows, block in _blocks(series):
        std, varies[rows] = _centred(block)
        inverse = np.divide(1.0, std, out=np.zeros_like(std), where=varies[rows])
        series[rows] = block * inverse[:, None]
    return varies


def varying(series: Series) -> npt.NDArray[np.bool_]:
    """Tell which places vary over time, shape (n_places,)."""
    return np.concatenate([_centred(block)[1] for _, block in _blocks(series)])


def bandpass(series: Series, tr: float, low: float, high: float) -> Series:
    """Band-pass filter between ``low`` and ``high``, without a shift in time.

    Subtracts the mean of each place, then applies a Butterworth filter of order 5 forwards and
    backwards. Its gain therefore applies twice.

    Parameters
    ----------
    series : np.ndarray of shape (n_places, n_frames), float32
    tr : float
        Seconds between frames.
    low, high : float
        Pass band, Hz.

    Raises
    ------
    RunError
        If the run is too short for the filter, or sampled too slowly.
    """
    from scipy.signal import butter, sosfiltfilt

    if high >= 0.5 / tr:
        raise RunError(
            expected("Repetition time", "of the run",
                     f"below {0.5 / high:g} s for a band of {low:g} to {high:g} Hz", f"{tr:g} s",
                     "Choose a lower band.")
        )  # fmt: skip
    sos = butter(_BANDPASS_ORDER, (low, high), "bandpass", fs=1 / tr, output="sos")
    _check_length(series, sos, f"a band of {low:g} to {high:g} Hz", off="network.band")
    return _by_place(
        series,
        lambda x: sosfiltfilt(sos, x - x.mean(axis=1, keepdims=True), axis=1),
        series.shape[1],
    )


def check_tr(option: str, tr: float | None) -> None:
    """Refuse seconds between token frames that are no number above 0; None is no resampling.

    Raises
    ------
    FmritokError
    """
    if tr is None:
        return
    is_number = isinstance(tr, int | float) and not isinstance(tr, bool)
    if not (is_number and math.isfinite(tr) and tr > 0):
        raise refused_option(option, "seconds between frames, above 0, or null", tr)


def resampled_frames(
    n_frames: int, tr: float, target_tr: float | None, *, whole: bool = False
) -> int:
    """Return the number of frames after :func:`resample`, which never extrapolates.

    Parameters
    ----------
    n_frames : int
    tr, target_tr : float
        Seconds between frames, before and after. None: unchanged.
    whole : bool
        Count only frames that lie within the run for all of ``target_tr`` seconds, as CortexMAE
        does: of 181 frames at 0.8 s, 144 at 1 s instead of 145.
    """
    if target_tr is None:
        return n_frames
    within = int(np.floor((n_frames - 1) * tr / target_tr + 1e-6)) + 1
    return min(within, int(np.floor(n_frames * tr / target_tr + 1e-6))) if whole else within


def resample(
    series: Series,
    tr: float,
    target_tr: float,
    kind: Literal["pchip", "linear"],
    *,
    antialias: bool = True,
    padding: Literal["odd", "even"] = "odd",
    n_frames: int | None = None,
) -> Series:
    """Sample time courses at 0, ``target_tr``, 2 ``target_tr``, ... seconds after the first frame.

    Parameters
    ----------
    series : np.ndarray of shape (n_places, n_frames), float32
    tr, target_tr : float
        Seconds between frames, before and after.
    kind : {"pchip", "linear"}
        Monotone cubic or linear interpolation.
    antialias : bool
        Whether to apply an anti-alias filter where ``target_tr`` is longer than ``tr``.
    padding : {"odd", "even"}
        How the filter continues time courses beyond their ends: point-reflected or mirrored.
    n_frames : int, optional
        Frames to return. Default: :func:`resampled_frames`.

    Raises
    ------
    RunError
        If the run is too short for the filter.
    """
    from scipy.interpolate import PchipInterpolator
    from scipy.signal import cheby1, sosfiltfilt

    if abs(tr - target_tr) < 1e-6:
        return series
    n_before = series.shape[1]
    before = np.arange(n_before) * tr
    if n_frames is None:
        n_frames = resampled_frames(n_before, tr, target_tr)
    after = np.minimum(np.arange(n_frames) * target_tr, before[-1])
    sos = None
    if antialias and target_tr > tr:
        edge = _ANTIALIAS_SHARE * tr / target_tr
        sos = cheby1(_ANTIALIAS_ORDER, _ANTIALIAS_RIPPLE_DB, edge, output="sos")
        _check_length(series, sos, f"a slower sampling of {target_tr:g} s", off="TOKENIZER.tr")

    def sampled(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if sos is not None:
            x = sosfiltfilt(sos, x, axis=1, padtype=padding)
        if kind == "pchip":
            return np.asarray(PchipInterpolator(before, x, axis=1)(after))
        position = after / tr
        left = np.minimum(position.astype(int), n_before - 2)
        share = position - left
        return (1 - share) * x[:, left] + share * x[:, left + 1]

    return _by_place(series, sampled, len(after))


def _centred(
    block: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Subtract the mean of each place, in place; return its deviation, and whether it varies."""
    # Rounding errors of a constant time course must not be scaled to unit variance.
    size = np.abs(block).max(axis=1)
    block -= block.mean(axis=1, keepdims=True)
    std = np.sqrt(np.square(block).mean(axis=1))
    return std, std > 1e-6 * size


def _by_place(
    series: Series,
    change: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    n_frames: int,
) -> Series:
    out = np.empty((len(series), n_frames), np.float32)
    for rows, block in _blocks(series):
        out[rows] = change(block)
    return out


def _blocks(series: Series) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    for first in range(0, len(series), _PLACES_AT_ONCE):
        rows = slice(first, first + _PLACES_AT_ONCE)
        yield rows, series[rows].astype(np.float64)


def _check_length(series: Series, sos: npt.NDArray[np.float64], what: str, *, off: str) -> None:
    """Refuse runs that are shorter than the padding of the filter, which ``off`` switches off."""
    needed = 3 * (2 * len(sos) + 1) + 1
    if series.shape[1] < needed:
        raise RunError(
            expected("Run", f"for {what}", f"at least {counted(needed, 'frame')}", series.shape[1],
                     f"Leave the run out, or switch the filter off: {off} none (--set {off}=null).")
        )  # fmt: skip
