"""Labels of subjects, runs and events, for probes and datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.data.events import EventWindows
from fmritok.trainer.data.phenotypes import KEYS, as_words, subjects_of, values_of_runs
from fmritok.trainer.data.split import families
from fmritok.trainer.errors import ConfigError

__all__ = ["EVENT_TARGET", "Labels", "event_labels", "labels_of", "runs_where"]

#: The target of windows locked to events; all others belong to runs or subjects.
EVENT_TARGET = "trial_type"
_RUN_COLUMNS = ("task", "session", "site", "dataset")


@dataclass(frozen=True)
class Labels:
    """Labels of one target: one per unit, which is a subject, a run or an event.

    Attributes
    ----------
    target : str
    kind : {"classes", "number"}
    unit : {"subject", "run", "event"}
    of_row : np.ndarray of shape (n_rows,), int64
        Unit of each row (run or event); -1 without a label.
    values : np.ndarray of shape (n_units,)
        Classes as text, or numbers.
    family : np.ndarray of shape (n_units,), str
    within : tuple of np.ndarray of shape (n_units,), str
        Groups within families, outermost first: the subject of a run; the subject and the run of
        an event.
    """

    target: str
    kind: Literal["classes", "number"]
    unit: Literal["subject", "run", "event"]
    of_row: npt.NDArray[np.int64]
    values: npt.NDArray[Any]
    family: npt.NDArray[np.str_]
    within: tuple[npt.NDArray[np.str_], ...] = ()


def runs_where(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the runs that match all conditions ``column=value``; values of one column are ORed.

    Raises
    ------
    ConfigError
        If a condition has another form, or no run matches.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or column not in (*_RUN_COLUMNS, "subject"):
            raise ConfigError(
                expected("Option", "where",
                         f"COLUMN=VALUE with one of {', '.join(_RUN_COLUMNS)}, subject",
                         repr(condition), "For example: task=rest")
            )  # fmt: skip
        wanted.setdefault(column, []).append(value)
    for column, values in wanted.items():
        there = runs[column].astype(str)
        if not there.isin(values).any():
            raise ConfigError(
                expected("Option", "where", f"{column} among {', '.join(sorted(set(there)))}",
                         ", ".join(values), "Choose one that runs have.")
            )  # fmt: skip
        runs = runs[there.isin(values)]
    return runs


def labels_of(target: str, runs: pd.DataFrame, phenotypes: pd.DataFrame) -> Labels:
    """Return the labels of a column of the phenotypes, or else of the runs table.

    Text, booleans and numbers with two values are classes; other columns are numbers. A value of
    the run's own session goes before one that holds for all sessions.

    Raises
    ------
    ConfigError
        If there is no such column, or it has fewer than two different labels.
    """
    names = [c for c in phenotypes.columns if c not in KEYS]
    subject = subjects_of(runs)
    if target in names:
        values = values_of_runs(target, runs, phenotypes)
        if values.groupby(subject).nunique().max() > 1:  # such as the age at each session
            units, unit = runs["run_id"].to_numpy(str), "run"
        else:
            units, unit = subject, "subject"
    elif target in runs.columns and target in _RUN_COLUMNS:
        units, unit, values = (
            runs["run_id"].to_numpy(str),
            "run",
            runs[target].reset_index(drop=True),
        )
    else:
        columns = ", ".join([*names, *_RUN_COLUMNS])
        raise ConfigError(
            expected("Label", target, f"one of {columns}", "no such column", "Choose one of them.")
        )
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    known = values.notna().to_numpy()
    if not numeric:
        values = values.astype(str)
        known = known & (values != "").to_numpy()
    distinct = sorted(values[known].unique().tolist())
    _require_two(target, distinct)
    chosen, first, inverse = np.unique(units[known], return_index=True, return_inverse=True)
    of_row = np.full(len(runs), -1)
    of_row[known] = inverse
    kind: Literal["classes", "number"] = "number" if numeric and len(distinct) > 2 else "classes"
    labels = values[known].to_numpy()[first]
    return Labels(
        target, kind, unit, of_row,  # type: ignore[arg-type]
        labels.astype(float) if kind == "number" else as_words(pd.Series(labels)),
        families(runs)[known][first],
        () if unit == "subject" else (subject[known][first],),
    )  # fmt: skip


def event_labels(found: EventWindows, runs: pd.DataFrame) -> Labels:
    """Return the labels of event windows; every row is a unit.

    Parameters
    ----------
    found : EventWindows
    runs : pd.DataFrame
        The run of each window.

    Raises
    ------
    ConfigError
        If all events are of one trial type.
    """
    _require_two(EVENT_TARGET, found.trial_types)
    values = np.array(found.trial_types)[found.windows.label]
    return Labels(
        EVENT_TARGET, "classes", "event", np.arange(len(values)), values, families(runs),
        (subjects_of(runs), runs["run_id"].to_numpy(str)),
    )  # fmt: skip


def _require_two(target: str, distinct: Sequence[Any]) -> None:
    if len(distinct) < 2:
        raise ConfigError(
            expected("Column", target, "two or more different labels",
                     ", ".join(map(str, distinct)) or "none", "Choose another column.")
        )  # fmt: skip
