"""Repetition time and start of runs, decided from headers, sidecars and the cohort.

Tokens need a constant repetition time. Onsets of events count from the first frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmritok.errors import expected

__all__ = ["Seconds", "Sidecar", "lone_times", "read_sidecar", "repetition_time"]

_NAN = float("nan")
#: Plausible repetition times, s.
TR_RANGE_S = (0.1, 20.0)
#: Default of tools that lose the repetition time, s.
_LOST_TR = 1.0
#: Relative tolerances of repetition times: for one run (half a percent would be seconds at its
#: end), and between scanners.
_SAME, _SAME_SCANNER = 1e-3, 5e-3
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


@dataclass(frozen=True)
class Seconds:
    """Chosen repetition time of a run.

    Attributes
    ----------
    tr : float
        s; NaN if unknown.
    problem : str
        Why the run cannot be tokenized; empty if it can.
    questions : tuple of (Path, str)
        Doubts about the files.
    """

    tr: float
    problem: str = ""
    questions: tuple[tuple[Path, str], ...] = ()


def repetition_time(
    header: float,
    path: Path,
    *,
    n_frames: int = 0,
    given: float | None = None,
    sidecar: Sidecar | None = None,
    usual: Sequence[float] = (),
    instead: float = _NAN,
) -> Seconds:
    """Choose the repetition time of a run.

    The first plausible value counts, in this order: given by the user, sidecar, header, documented
    by the cohort.

    Parameters
    ----------
    header : float
        Repetition time in the header, s; NaN if missing.
    path : Path
        File of the run.
    n_frames : int
        Frames of the file; 0 if unknown.
    given : float, optional
        Repetition time given by the user, s.
    sidecar : Sidecar, optional
    usual : sequence of float
        Repetition times of the cohort's scans, s; empty if unknown.
    instead : float
        Replacement for an implausible time in the header, s; NaN if unknown.
    """
    sidecar = sidecar or Sidecar()
    if sidecar.problem:
        return Seconds(sidecar.tr, sidecar.problem)
    told = sidecar.path or path
    questions = list(sidecar.questions)
    if sidecar.n_times and n_frames and sidecar.n_times != n_frames:
        questions.append((told, "the sidecar lists the times of another number of frames"))
    if given is not None:
        problem = "" if _can_be(given) else _refusal("given with --tr", given, "Correct --tr.")
        return Seconds(given, problem, tuple(questions))
    is_lost = not _can_be(header) or (header == _LOST_TR and not _among(header, usual or [header]))
    if _can_be(sidecar.tr):
        tr = sidecar.tr
        if _can_be(header) and not _same(header, tr, _SAME):
            questions.append((told, f"the sidecar says {tr:g} s between frames, the header "
                              f"{header:g} s: the sidecar's is used"))  # fmt: skip
    elif not math.isnan(sidecar.tr) and not _settles(header, sidecar.tr):
        advice = f"Correct RepetitionTime in the sidecar{_unit(sidecar.tr)}, or give --tr SECONDS."
        return Seconds(sidecar.tr, _refusal(f"in {told}", sidecar.tr, advice))
    elif is_lost and not math.isnan(instead):
        tr = instead
        questions.append((path, "the header's repetition time is impossible, or the 1 s of tools "
                          f"that lose it: the {tr:g} s of this cohort are used"))  # fmt: skip
    elif is_lost and _can_be(header):
        return Seconds(header, expected(
            "Repetition time", f"in {path}", f"{_or(usual)} s, as scans of this cohort have",
            f"{header:g} s, the default of tools that lose it",
            "Repair the header, or give it with --tr SECONDS.",
        ))  # fmt: skip
    elif _can_be(header):
        tr = header
        if not math.isnan(sidecar.tr):
            questions.append((told, f"the sidecar's RepetitionTime of {sidecar.tr:g} s is "
                              f"impossible{_unit(sidecar.tr)}: the header's is used"))  # fmt: skip
    else:
        advice = f"Repair the header{_unit(header)}, or give it with --tr SECONDS."
        return Seconds(header, _refusal(f"in {path}", header, advice))
    if usual and not _among(tr, usual):
        questions.append((path, f"a repetition time of {tr:g} s, where scans of this cohort have "
                          f"{_or(usual)} s"))  # fmt: skip
    return Seconds(tr, "", tuple(questions))


def lone_times(runs: pd.DataFrame) -> list[tuple[Path, str]]:
    """Question runs with another repetition time than the other runs of their task.

    Parameters
    ----------
    runs : pd.DataFrame
        ``task, tr, path, problem`` of a cohort without known repetition times.
    """
    found = []
    good = runs[runs["problem"] == ""]
    for _, some in good.groupby("task"):
        seconds = some["tr"].round(3)
        counts = seconds.value_counts()
        if len(counts) > 1:
            # several files may have the default of 1 s
            is_lost = (seconds == _LOST_TR) & (counts.idxmax() != _LOST_TR)
            lone = some[(seconds.map(counts) == 1) | is_lost]
            found += [(Path(path), "another repetition time than the other runs of its task")
                      for path in lone["path"]]  # fmt: skip
    return found


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
        elif not _same(tr, step, _SAME_SCANNER):
            questions.append((of, f"{name} and RepetitionTime differ: RepetitionTime is used"))
    questions += _contradictions(fields, tr, number)
    start, of_events = _events(fields, tr, number)
    return Sidecar(path, tr, start, n_times, "", tuple(questions), tuple(of_events))


def _contradictions(
    fields: Mapping[str, tuple[Any, Path]], tr: float, number: Any
) -> list[tuple[Path, str]]:
    """Return contradictions between the repetition time and other fields."""
    found = []
    if number("DelayTime") >= tr:
        found.append((fields["DelayTime"][1], "DelayTime is as long as RepetitionTime, of which it "
                      "should be a part"))  # fmt: skip
    slices = _times(fields.get("SliceTiming", ([], Path()))[0], ordered=False)
    if slices is not None and slices.max() > tr * (1 + _SAME_SCANNER):
        found.append((fields["SliceTiming"][1], "SliceTiming has a slice that was taken later than "
                      "RepetitionTime"))  # fmt: skip
    return found


def _events(
    fields: Mapping[str, tuple[Any, Path]], tr: float, number: Any
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


def _settles(header: float, sidecar: float) -> bool:
    """Whether the time in the header can replace an implausible one in the sidecar."""
    meant = sidecar / 1000
    return _same(header, meant, _SAME) if _can_be(meant) else _can_be(header) and header != _LOST_TR


def _can_be(tr: float) -> bool:
    return TR_RANGE_S[0] <= tr <= TR_RANGE_S[1]


def _same(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * other


def _among(tr: float, usual: Sequence[float]) -> bool:
    return any(_same(tr, seconds, _SAME_SCANNER) for seconds in usual)


def _or(usual: Sequence[float]) -> str:
    return " or ".join(f"{seconds:g}" for seconds in usual)


def _unit(tr: float) -> str:
    """Return a remark on the probable unit of a number."""
    if _can_be(tr / 1000):
        return " (these look like milliseconds)"
    return " (these look like seconds, taken for milliseconds)" if _can_be(tr * 1000) else ""


def _refusal(where: str, tr: float, next_step: str) -> str:
    got = "none" if math.isnan(tr) else f"{tr:g} s"
    return expected("Repetition time", where, f"{TR_RANGE_S[0]:g} to {TR_RANGE_S[1]:g} s", got,
                    next_step)  # fmt: skip
