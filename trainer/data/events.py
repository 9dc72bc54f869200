"""Choose windows locked to events, for decoding tasks and conditions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import TrainingError

__all__ = ["EventWindows", "event_windows"]

_logger = logging.getLogger(__name__)


class EventWindows(NamedTuple):
    """Windows with the trial type of each as its label."""

    windows: Windows
    trial_types: tuple[str, ...]
    """name of each label"""
    left_out: int
    """events with a window that reaches beyond the run"""


def event_windows(
    index: RunIndex,
    events: pd.DataFrame,
    *,
    window: float,
    delay: float,
    patch: int = 1,
    trial_types: Sequence[str] | None = None,
) -> EventWindows:
    """Return one window per event, sorted by run and onset.

    Parameters
    ----------
    index : RunIndex
    events : pd.DataFrame
        ``run_id, onset, duration, trial_type``, seconds; events of other runs are ignored.
    window : float
        Seconds, rounded to whole patches of each run, at least one.
    delay : float
        Seconds from an onset to the first frame: the BOLD response peaks after about 5 s.
    patch : int
        Frames of a patch of the model.
    trial_types : sequence of str, optional
        Events to use, in the order of their labels. Default: all trial types with a window, sorted
        by name.

    Returns
    -------
    EventWindows

    Raises
    ------
    TrainingError
        If there is no event, or none of a named trial type.
    """
    position = pd.Series(np.arange(len(index)), index=index.run_id)
    events = events[events["run_id"].isin(position.index)]
    named = events["trial_type"]
    events = events[named != "" if trial_types is None else named.isin(list(trial_types))]
    run = position[events["run_id"]].to_numpy(np.int64)
    # Round to the nearest frame: a frame covers its TR.
    first = np.rint((events["onset"].to_numpy(np.float64) + delay) / index.tr[run]).astype(np.int64)
    patches = np.maximum(np.rint(window / index.tr[run] / patch), 1)
    length = patch * patches.astype(np.int64)
    trial_type = events["trial_type"].to_numpy(str)
    fits = (first >= 0) & (first + length <= index.n_frames[run])
    found = set(trial_type[fits].tolist())
    names = sorted(found) if trial_types is None else list(trial_types)
    missing = [name for name in names if name not in found]
    if missing or not names:
        of_kind = (trial_type == missing[0]).sum() if missing else len(events)
        raise TrainingError(
            expected("Events", f"of trial type {missing[0]!r}" if missing else "of the chosen runs",
                     f"at least one with {window:g} s of its run from {delay:g} s after its onset "
                     f"on (a token of the model is {patch} frames)",
                     f"{of_kind} events, all without",
                     "Choose other trial types, a shorter window or a shorter delay.")
        )  # fmt: skip
    if not fits.all():
        _logger.warning(
            "%d of %d events left out: their windows of %g s reach beyond the run",
            (~fits).sum(), len(fits), window,
        )  # fmt: skip
    order = np.lexsort((first[fits], run[fits]))
    run, first, length = run[fits][order], first[fits][order], length[fits][order]
    number = {name: i for i, name in enumerate(names)}
    label = np.array([number[name] for name in trial_type[fits][order]], dtype=np.int64)
    windows = Windows.of(run, first, length, np.zeros_like(run), label=label)
    return EventWindows(windows, tuple(names), int((~fits).sum()))
