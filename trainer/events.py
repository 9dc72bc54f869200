"""Windows locked to events, for decoding what a subject was doing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fmritok.pipeline.errors import expected
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.windows import RunIndex, Windows

__all__ = ["EventWindows", "event_windows"]

_logger = logging.getLogger(__name__)


class EventWindows(NamedTuple):
    """Windows with the trial type of each as its label."""

    windows: Windows
    trial_types: tuple[str, ...]
    """name of each label"""
    left_out: int
    """events whose window is not wholly within the run"""


def event_windows(
    index: RunIndex,
    events: pd.DataFrame,
    *,
    window: int,
    delay: float,
    trial_types: Sequence[str] | None = None,
) -> EventWindows:
    """Return one window for each event, in the order of runs and onsets.

    Parameters
    ----------
    index : RunIndex
    events : pd.DataFrame
        ``run_id, onset, duration, trial_type``, seconds; other runs' events are not looked at.
    window : int
        Frames.
    delay : float
        Seconds from an onset to the first frame: the blood's response lags by about 5 s.
    trial_types : sequence of str, optional
        Which events, and the order of their labels; by default all, sorted by name.

    Returns
    -------
    EventWindows

    Raises
    ------
    TrainingError
        If there is no such event.
    """
    position = pd.Series(np.arange(len(index)), index=index.run_id)
    events = events[events["run_id"].isin(position.index)]
    names = sorted(set(events["trial_type"])) if trial_types is None else list(trial_types)
    events = events[events["trial_type"].isin(names)]
    run = position[events["run_id"]].to_numpy(np.int64)
    # The frame whose time is nearest: a frame stands for its TR, not for an instant.
    first = np.rint((events["onset"].to_numpy(np.float64) + delay) / index.tr[run]).astype(np.int64)
    number = {name: i for i, name in enumerate(names)}
    label = events["trial_type"].map(number).to_numpy(np.int64)
    fits = (first >= 0) & (first + window <= index.n_frames[run])
    missing = [name for i, name in enumerate(names) if not (label[fits] == i).any()]
    if missing or not names:
        raise TrainingError(
            expected("Events", f"of trial type {missing[0]!r}" if missing else "of the chosen runs",
                     f"at least one with {window} frames from {delay:g} s after its onset on",
                     "none", "Choose other trial types, a shorter window or a shorter delay.")
        )  # fmt: skip
    if not fits.all():
        _logger.warning(
            "%d of %d events left out: their windows of %d frames reach beyond the run",
            (~fits).sum(), len(fits), window,
        )  # fmt: skip
    order = np.lexsort((first[fits], run[fits]))
    run, first, label = run[fits][order], first[fits][order], label[fits][order]
    windows = Windows.of(run, first, np.full(len(run), window), np.zeros_like(run), label=label)
    return EventWindows(windows, tuple(names), int((~fits).sum()))
