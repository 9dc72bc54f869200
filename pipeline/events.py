"""What happened during task runs: onsets, durations and conditions, s."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

__all__ = ["Event", "events_table", "read_bids_events", "read_fsl_events"]


class Event(NamedTuple):
    """One stimulus, block or response."""

    onset: float
    """Since the first frame, s."""
    duration: float
    """In s; NaN if it is not known."""
    trial_type: str


def events_table(runs: Iterable[tuple[str, list[Event]]]) -> pd.DataFrame:
    """Lay out the events of runs as ``run_id, onset, duration, trial_type``, in order of time."""
    ids, onsets, durations, types = [], [], [], []
    for run_id, events in sorted(runs):
        for event in sorted(events):
            ids.append(run_id)
            onsets.append(event.onset)
            durations.append(event.duration)
            types.append(event.trial_type)
    return pd.DataFrame(
        {
            "run_id": pd.Series(ids, dtype=str),
            "onset": np.array(onsets, np.float64),
            "duration": np.array(durations, np.float64),
            "trial_type": pd.Series(types, dtype=str),
        }
    )


def read_fsl_events(path: Path) -> list[Event]:
    """Read a three-column file of FSL (onset, duration, weight); its name is the condition.

    Raises
    ------
    ValueError
        If a line is something else. An empty file is a condition that did not occur.
    """
    lines = [line.split() for line in path.read_text().splitlines()]
    if any(len(line) not in (0, 3) for line in lines):
        raise ValueError("not three columns")
    return [Event(float(line[0]), float(line[1]), path.stem) for line in lines if line]


def read_bids_events(path: Path) -> list[Event]:
    """Read a BIDS ``_events.tsv``; rows without an onset are no events of the run.

    Raises
    ------
    ValueError
        If it has no column of onsets, or one with something else than numbers.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if rows and "onset" not in rows[0]:
        raise ValueError("no column 'onset'")
    events = []
    for row in rows:
        onset = _number(row["onset"])
        if not math.isnan(onset):
            kind = (row.get("trial_type") or "").strip()
            duration = _number(row.get("duration"))
            events.append(Event(onset, duration, "" if kind == "n/a" else kind))
    return events


def _number(text: str | None) -> float:
    text = (text or "").strip()
    return math.nan if text in ("", "n/a", "N/A", "NaN", "nan") else float(text)
