"""Choose windows locked to events, for decoding tasks and conditions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import TrainingError

__all__ = ["EventWindows", "event_windows"]


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
) -> EventWindows:
    """Return one window per event, sorted by run and onset.

    Parameters
    ----------
    index : RunIndex
    events : pd.DataFrame
        ``run_id, onset, duration, trial_type``, seconds; events of other runs, or without a trial
        type, are ignored.
    window : float
        Seconds, rounded to whole patches of each run, at least one.
    delay : float
        Seconds from an onset to the first frame: the BOLD response peaks after about 5 s.
    patch : int
        Frames of a patch of the model.

    Returns
    -------
    EventWindows
        Trial types with a window are sorted by name.

    Raises
    ------
    TrainingError
        If no event has a window within its run.
    """
    position = pd.Series(np.arange(len(index)), index=index.run_id)
    events = events[events["run_id"].isin(position.index) & (events["trial_type"] != "")]
    run = position[events["run_id"]].to_numpy(np.int64)
    # Round to the nearest frame: a frame covers its TR.
    first = np.rint((events["onset"].to_numpy(np.float64) + delay) / index.tr[run]).astype(np.int64)
    patches = np.maximum(np.rint(window / index.tr[run] / patch), 1)
    length = patch * patches.astype(np.int64)
    trial_type = events["trial_type"].to_numpy(str)
    fits = (first >= 0) & (first + length <= index.n_frames[run])
    names = sorted(set(trial_type[fits].tolist()))
    if not names:
        raise TrainingError(
            expected("Events", "of the chosen runs",
                     f"at least one with {window:g} s of its run from {delay:g} s after its onset "
                     f"on (a token of the model is {counted(patch, 'frame')})",
                     f"{counted(len(events), 'event')}, all without",
                     "Choose other runs, a shorter window or a shorter delay.")
        )  # fmt: skip
    order = np.lexsort((first[fits], run[fits]))
    run, first, length = run[fits][order], first[fits][order], length[fits][order]
    number = {name: i for i, name in enumerate(names)}
    label = np.array([number[name] for name in trial_type[fits][order]], dtype=np.int64)
    windows = Windows.of(run, first, length, np.zeros_like(run), label=label)
    return EventWindows(windows, tuple(names), int((~fits).sum()))
