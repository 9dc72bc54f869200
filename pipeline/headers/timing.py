"""Choose the repetition time of a run from its header, its sidecar and the cohort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fmritok.errors import expected
from fmritok.pipeline.headers.sidecar import Sidecar

__all__ = ["TR_RANGE_S", "Seconds", "lone_times", "repetition_time"]

_NAN = float("nan")
#: Plausible repetition times, s.
TR_RANGE_S = (0.1, 20.0)
#: Default of tools that lose the repetition time, s.
_LOST_TR = 1.0
#: Relative tolerances of repetition times: for one run (half a percent would be seconds at its
#: end), and between scanners.
_SAME, _SAME_SCANNER = 1e-3, 5e-3


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
        advice = f"Correct it{_unit(given)}."
        problem = "" if _can_be(given) else _refusal("given as tr (--tr)", given, advice)
        return Seconds(given, problem, tuple(questions))
    is_lost = not _can_be(header) or (header == _LOST_TR and not _among(header, usual or [header]))
    if _can_be(sidecar.tr):
        tr = sidecar.tr
        if _can_be(header) and not _same(header, tr, _SAME):
            questions.append((told, f"the sidecar says {tr:g} s between frames, the header "
                              f"{header:g} s: the sidecar's is used"))  # fmt: skip
    elif not math.isnan(sidecar.tr) and not _settles(header, sidecar.tr):
        advice = (f"Correct RepetitionTime in the sidecar{_unit(sidecar.tr)}, or give tr in "
                  "seconds (--tr).")  # fmt: skip
        return Seconds(sidecar.tr, _refusal(f"in {told}", sidecar.tr, advice))
    elif is_lost and not math.isnan(instead):
        tr = instead
        questions.append((path, "the header's repetition time is impossible, or the 1 s of tools "
                          f"that lose it: the {tr:g} s of this cohort are used"))  # fmt: skip
    elif is_lost and _can_be(header):
        return Seconds(header, expected(
            "Repetition time", f"in {path}", f"{_or(usual)} s, as scans of this cohort have",
            f"{header:g} s, the default of tools that lose it",
            "Repair the header, or give tr in seconds (--tr).",
        ))  # fmt: skip
    elif _can_be(header):
        tr = header
        if not math.isnan(sidecar.tr):
            questions.append((told, f"the sidecar's RepetitionTime of {sidecar.tr:g} s is "
                              f"impossible{_unit(sidecar.tr)}: the header's is used"))  # fmt: skip
    else:
        advice = f"Repair the header{_unit(header)}, or give tr in seconds (--tr)."
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
