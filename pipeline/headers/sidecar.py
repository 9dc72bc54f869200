"""Timing of a run in its BIDS sidecars: repetition time, time of the first frame, frame times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmritok.errors import expected

__all__ = ["Sidecar", "read_sidecar"]

_NAN = float("nan")
#: Relative tolerance of times that should agree.
_TOLERANCE = 5e-3
#: Tolerance of frame times on an even grid, in repetition times.
_EVEN = 0.05
_DISCARDED = ("NumberOfVolumesDiscardedByScanner", "NumberOfVolumesDiscardedByUser")
_TIMES = ("VolumeTiming", "FrameTimesStart")


@dataclass(frozen=True)
class Sidecar:
    """Timing of a run from its sidecars.

    Attributes
    ----------
    path : Path, optional
        The file with `tr`.
    tr : float
        Repetition time, s; NaN if no sidecar has it. Not checked.
    start : float
        ``StartTime``: seconds from the start of the first volume to the time of the first frame.
    n_times : int
        Number of listed frame times; 0 if there is no list.
    problem : str
        Why the run cannot be tokenized; empty if it can.
    questions : tuple of (Path, str)
        Doubts about the files.
    of_events : tuple of (Path, str)
        Doubts that matter only if the run has events.
    """

    path: Path | None = None
    tr: float = _NAN
    start: float = 0.0
    n_times: int = 0
    problem: str = ""
    questions: tuple[tuple[Path, str], ...] = ()
    of_events: tuple[tuple[Path, str], ...] = ()


def read_sidecar(fields: Mapping[str, tuple[Any, Path]]) -> Sidecar:
    """Read the timing in the sidecars of a BIDS run.

    ``VolumeTiming`` and ``FrameTimesStart`` list the times of frames; they must be evenly spaced.
    ``StartTime`` is the time of the first frame after slice timing correction. ``DelayTime`` is
    part of ``RepetitionTime``, and discarded volumes lie before onset 0: neither shifts onsets.

    Parameters
    ----------
    fields : mapping of str to (value, Path)
        Fields that apply to the run, each with its file.
    """
    questions: list[tuple[Path, str]] = []

    def number(name: str) -> float:
        value, path = fields.get(name, (_NAN, Path()))
        try:
            seconds = _NAN if isinstance(value, bool | None) else float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = _NAN
        if name in fields and not math.isfinite(seconds):
            questions.append((path, f"{name} in the sidecar is no number: it is not used"))
            return _NAN
        return seconds

    tr, path = number("RepetitionTime"), fields.get("RepetitionTime", (0, None))[1]
    if math.isnan(tr):
        for name in ("RepetitionTimePreparation", "RepetitionTimeExcitation"):
            if name in fields:
                questions.append((fields[name][1], f"{name} is not the time between frames: it is "
                                  "not used"))  # fmt: skip
    n_times = 0
    for name in _TIMES:
        if name not in fields:
            continue
        times, of = _times(fields[name][0]), fields[name][1]
        if times is None:
            questions.append((of, f"{name} in the sidecar is no list of times: it is not used"))
            continue
        step = float(times[-1] - times[0]) / (len(times) - 1)
        if np.abs(times - times[0] - step * np.arange(len(times))).max() > _EVEN * step:
            gaps = np.diff(times)
            got = f"{name} with gaps of {gaps.min():g} to {gaps.max():g} s (sparse sampling)"
            return Sidecar(path, tr, problem=expected(
                "Times of the frames in", of, "equal distances", got,
                "Leave the run out: tokens are frames at a constant repetition time.",
            ))  # fmt: skip
        n_times = len(times)
        if times[0] != 0:
            questions.append((of, f"{name} does not begin at 0: events are taken to count from the "
                              "first frame"))  # fmt: skip
        if math.isnan(tr):
            tr, path = round(step, 6), of
        elif abs(tr - step) > _TOLERANCE * step:
            questions.append((of, f"{name} and RepetitionTime differ: RepetitionTime is used"))
    questions += _contradictions(fields, tr, number)
    start, of_events = _events(fields, tr, number)
    return Sidecar(path, tr, start, n_times, "", tuple(questions), tuple(of_events))


def _contradictions(
    fields: Mapping[str, tuple[Any, Path]], tr: float, number: Callable[[str], float]
) -> list[tuple[Path, str]]:
    """Return contradictions between the repetition time and other fields."""
    found = []
    if number("DelayTime") >= tr:
        found.append((fields["DelayTime"][1], "DelayTime is as long as RepetitionTime, of which it "
                      "should be a part"))  # fmt: skip
    slices = _times(fields.get("SliceTiming", ([], Path()))[0], ordered=False)
    if slices is not None and slices.max() > tr * (1 + _TOLERANCE):
        found.append((fields["SliceTiming"][1], "SliceTiming has a slice that was taken later than "
                      "RepetitionTime"))  # fmt: skip
    return found


def _events(
    fields: Mapping[str, tuple[Any, Path]], tr: float, number: Callable[[str], float]
) -> tuple[float, list[tuple[Path, str]]]:
    """Return the time of the first frame, and doubts about onsets of events."""
    found = []
    for name in _DISCARDED:
        if number(name) > 0:
            found.append((fields[name][1], f"{name}: check that onsets of events count from the "
                          "first frame that was kept"))  # fmt: skip
    start = number("StartTime")
    corrected = fields.get("SliceTimingCorrected", (False, Path()))
    if math.isnan(start):
        if corrected[0] is True:
            found.append((corrected[1], "SliceTimingCorrected without StartTime: frames may be up "
                          "to one repetition time later than events say"))  # fmt: skip
        return 0.0, found
    of = fields["StartTime"][1]
    if not 0 <= start <= (20.0 if math.isnan(tr) else tr):
        found.append((of, "StartTime is not within the first frame: it is not used"))
        return 0.0, found
    if start:
        found.append((of, "StartTime is subtracted from onsets of events"))
    return start, found


def _times(value: Any, *, ordered: bool = True) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return a value as a list of at least two increasing numbers; None if it is not one."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    if not all(isinstance(x, int | float) for x in value):
        return None
    try:
        times = np.array([float(x) for x in value])
    except OverflowError:  # JSON integers may be too large
        return None
    if not np.isfinite(times).all():
        return None
    return None if ordered and (np.diff(times) <= 0).any() else times
