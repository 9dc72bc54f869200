"""Events of task runs: onsets, durations and conditions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import UnreadableError, text_lines
from fmritok.pipeline.tables.text_numbers import numbers_of, plain_numbers
from fmritok.pipeline.tables.text_table import BIDS, TextTable, find_column

__all__ = ["Event", "events_table", "read_bids_events", "read_fsl_events"]


class Event(NamedTuple):
    """One stimulus, block or response."""

    onset: float
    """Seconds since the first frame."""
    duration: float
    """Seconds; NaN if unknown."""
    trial_type: str


def events_table(runs: Iterable[tuple[str, list[Event]]]) -> pd.DataFrame:
    """Return a table ``run_id, onset, duration, trial_type`` of all events, sorted by onset."""
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
    """Read a three-column file of FSL (onset, duration, weight). Its name is the condition.

    An empty file is a condition that did not occur.

    Raises
    ------
    UnreadableError
        If the file cannot be read, or a line does not have three numbers.
    """
    rows = [fields for line in text_lines(path) if (fields := line.split())]
    try:
        if any(len(row) != 3 for row in rows):
            raise ValueError("not three columns")
        numbers = plain_numbers(list(chain.from_iterable(rows)))
    except ValueError as error:
        raise UnreadableError(Reason.NOT_FSL) from error
    condition = path.stem
    return [Event(*pair, condition) for pair in zip(numbers[::3], numbers[1::3], strict=True)]


def read_bids_events(path: Path, doubts: list[str] | None = None) -> list[Event]:
    """Read a BIDS ``_events.tsv``. Rows without an onset are skipped.

    Parameters
    ----------
    path : Path
    doubts : list of str, optional
        Doubts about the file are appended here.

    Raises
    ------
    UnreadableError
        If the file cannot be read, has no column of onsets, or no numeric onset.
    """
    table = TextTable(path, BIDS)
    if find_column(table.header, ["onset"]) is None:
        raise UnreadableError(Reason.NO_COLUMN)
    texts = _columns(table, ("onset", "duration", "trial_type"))
    (onsets, no_onset), (durations, no_duration) = (numbers_of(column) for column in texts[:2])
    if no_onset.any() and np.isnan(onsets).all():
        raise UnreadableError(Reason.NO_ONSETS)
    remarks = list(table.remarks)
    remarks += [Remark.BAD_ONSETS] * bool(no_onset.any())
    remarks += [Remark.BAD_DURATIONS] * bool((no_duration & ~np.isnan(onsets)).any())
    if doubts is not None:
        doubts += map(str, remarks)
    rows = zip(onsets.tolist(), durations.tolist(), texts[2], strict=True)
    return [Event(*row) for row in rows if not math.isnan(row[0])]


def _columns(table: TextTable, names: Iterable[str]) -> list[list[str]]:
    """Return the values of columns; empty for missing values and missing columns."""
    found = [find_column(table.header, [name]) for name in names]
    there = [name for name in found if name]
    rows = list(table.rows([table.header.index(name) for name in there]))
    fields = {
        name: ["" if row[i] in BIDS.missing else row[i] for row in rows]
        for i, name in enumerate(there)
    }
    return [fields.get(name or "", [""] * len(rows)) for name in found]
