"""The units of a task in a store: its subjects, runs or windows, each with a label.

What is left out is counted by its reason: a label that is missing or belongs to no class, labels
that differ between the runs of a subject, a run without another one to be found.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.data.events import EventWindows, event_windows
from fmritok.trainer.data.labels import EVENT_TARGET, Labels, event_labels, runs_where
from fmritok.trainer.data.phenotypes import as_words, subjects_of, values_of_runs
from fmritok.trainer.data.split import families
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.columns import find_column, known_columns
from fmritok.trainer.tasks.labelling import (
    classes_of,
    numbers_of,
    require_classes,
    require_two,
    with_classes,
)
from fmritok.trainer.tasks.task import Task

__all__ = ["Units", "units_of", "without_units"]

_logger = logging.getLogger(__name__)
_NAMED = 5  # units of a reason that are named


@dataclass(frozen=True)
class Units:
    """Units of a task, in the order of their ids.

    Attributes
    ----------
    task : Task
        As it was resolved: the column that was found, the classes that there are.
    labels : Labels
        Values by their classes' names, or numbers.
    ids : np.ndarray of shape (n_units,), str
        Of a subject ``dataset/subject``, of a run its id, of a window ``run@frame``.
    subject, site : np.ndarray of shape (n_units,), str
        The site is empty where it is not known.
    runs : pd.DataFrame
        The run of each row of the features: of each run, or of each window.
    events : EventWindows or None
        Windows of the rows.
    excluded : dict of str to dict
        By reason: ``count``, and some ``units``.
    """

    task: Task
    labels: Labels
    ids: npt.NDArray[np.str_]
    subject: npt.NDArray[np.str_]
    site: npt.NDArray[np.str_]
    runs: pd.DataFrame
    events: EventWindows | None
    excluded: dict[str, dict[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order; none of numbers."""
        return tuple(self.task.classes)

    @property
    def codes(self) -> npt.NDArray[np.int64]:
        """Number of each unit's class."""
        number = {name: code for code, name in enumerate(self.classes)}
        return np.array([number[value] for value in self.labels.values], np.int64)


def units_of(
    task: Task,
    runs: pd.DataFrame,
    phenotypes: pd.DataFrame,
    events: pd.DataFrame | None = None,
    *,
    where: Sequence[str] = (),
    patch: int = 1,
) -> Units:
    """Find the units of a task and label them.

    Parameters
    ----------
    task : Task
    runs : pd.DataFrame
        Finished runs of a token group.
    phenotypes, events : pd.DataFrame
        Of the store.
    where : sequence of str
        ``column=value``: instead of what the task says of that property of runs.
    patch : int
        Frames of a patch of the model. Windows of events are rounded to whole patches.

    Raises
    ------
    ConfigError
        If the store lacks the cohort or the column, or there are fewer than two labels.
    """
    runs = _cohort(task, runs, where).sort_values("run_id", ignore_index=True)
    if task.target == (EVENT_TARGET,):
        return _of_events(task, runs, events, patch)
    column = find_column(task.target, phenotypes, what="Column", where=f"of task {task.name}")
    values = values_of_runs(column, runs, phenotypes)
    excluded: dict[str, npt.NDArray[np.str_]] = {}
    subject = subjects_of(runs)
    units = subject if task.unit == "subject" else runs["run_id"].to_numpy(str)
    has = values.notna().to_numpy()
    _exclude(excluded, "label missing", units[~np.isin(units, units[has])])
    labels: npt.NDArray[Any]
    if task.kind == "regression":
        labels = numbers_of(task, column, values)
    else:
        task, labels = classes_of(task, column, as_words(values), has)
        outside = has & (labels == "")
        _exclude(excluded, "label of no class", units[outside])
        has = has & ~outside
    frame = pd.DataFrame({"unit": units, "label": labels})[has]
    differing = frame.groupby("unit")["label"].nunique()
    contrary = differing.index[differing > 1].to_numpy(str)
    _exclude(excluded, "labels differ between runs", contrary)
    taken = np.isin(units, frame["unit"]) & ~np.isin(units, contrary)
    if task.kind == "retrieval":
        counts = frame["label"].value_counts()
        alone = has & (pd.Series(labels).map(counts).fillna(0).to_numpy() < 2)
        _exclude(excluded, "no other run to be found", units[alone])
        taken &= ~alone
    chosen = np.unique(units[taken])
    of_label = frame.drop_duplicates("unit").set_index("unit")["label"]
    found = of_label.reindex(chosen).to_numpy()
    found = found.astype(float) if task.kind == "regression" else found.astype(str)
    of_row = np.full(len(runs), -1)
    of_row[taken] = np.searchsorted(chosen, units[taken])
    left_out = {reason: len(names) for reason, names in excluded.items()}
    if task.kind == "regression":
        require_two(task, column, np.unique(found).tolist(), left_out)
    else:
        present = sorted(set(found.tolist()))
        task = with_classes(task, present)
        require_classes(task, column, present, left_out)
    return _units(
        replace(task, target=(column,)), found, chosen, of_row, runs, None, excluded, phenotypes
    )


def without_units(units: Units, leave: npt.NDArray[np.bool_], reason: str) -> Units:
    """Leave units out, and count them.

    Raises
    ------
    ConfigError
        If fewer than two labels are left.
    """
    if not leave.any():
        return units
    number = np.where(leave, -1, np.cumsum(~leave) - 1)
    labels = units.labels
    of_row = np.where(labels.of_row >= 0, number[labels.of_row], -1)
    kept = replace(
        labels, of_row=of_row, values=labels.values[~leave], family=labels.family[~leave],
        within=tuple(names[~leave] for names in labels.within),
    )  # fmt: skip
    excluded = {**units.excluded, reason: _tally(units.ids[leave])}
    task, column = units.task, units.task.target[0]
    present = sorted(set(kept.values.tolist()))
    left_out = {why: one["count"] for why, one in excluded.items()}
    if task.kind == "regression":
        require_two(task, column, present, left_out)
    else:
        require_classes(task, column, present, left_out)
        task = with_classes(task, present)
    return replace(
        units, task=task, labels=kept, ids=units.ids[~leave], subject=units.subject[~leave],
        site=units.site[~leave], excluded=excluded,
    )  # fmt: skip


def _cohort(task: Task, runs: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    """Return the runs that take part."""
    given = {condition.partition("=")[0] for condition in where}
    conditions = list(where)
    for column, values in task.cohort.items():
        if column in given:
            continue
        known = [name for name in runs.columns if name in ("task", "session", "site", "dataset")]
        if column not in known:
            raise ConfigError(
                expected("Field", f"cohort of task {task.name}", f"one of {', '.join(known)}",
                         column, "Correct the task's YAML.")
            )  # fmt: skip
        there = sorted(set(runs[column].astype(str)))
        if not set(values) & set(there):
            value = there[0] if len(there) == 1 else "VALUE"
            raise ConfigError(
                expected("Runs", f"of task {task.name}", f"{column} {' or '.join(values)}",
                         f"{column} {', '.join(there) or 'of no run'}",
                         f"If these runs are meant, give --where {column}={value}.")
            )  # fmt: skip
        conditions += [f"{column}={value}" for value in values if value in there]
    return runs_where(runs, conditions)


def _of_events(task: Task, runs: pd.DataFrame, events: pd.DataFrame | None, patch: int) -> Units:
    index = RunIndex.of(runs, runs["run_id"].tolist())
    if events is None or not events["run_id"].isin(runs["run_id"]).any():
        raise ConfigError(
            expected("Events", f"of task {task.name}", "some during the chosen runs", "none",
                     "Tokenize a cohort with task runs and their events.")
        )  # fmt: skip
    found = event_windows(index, events, window=task.window, delay=task.delay, patch=patch)
    of_row = runs.iloc[found.windows.run].reset_index(drop=True)
    ids = np.array([f"{run}@{first:06d}" for run, first
                    in zip(of_row["run_id"], found.windows.first, strict=True)])  # fmt: skip
    doubled = pd.Series(ids).duplicated(keep=False).to_numpy()
    excluded: dict[str, npt.NDArray[np.str_]] = {}
    if found.left_out:
        excluded["window reaches beyond the run"] = np.array([""] * found.left_out)
    labels = event_labels(found, of_row)
    task, values = classes_of(task, EVENT_TARGET, labels.values, np.ones(len(labels.values), bool))
    _exclude(excluded, "label of no class", ids[values == ""])
    _exclude(excluded, "two events at once", ids[doubled & (values != "")])
    taken = (values != "") & ~doubled
    chosen, first = np.unique(ids[taken], return_index=True)
    of_row_number = np.full(len(ids), -1)
    of_row_number[taken] = np.searchsorted(chosen, ids[taken])
    present = sorted(set(values[taken].tolist()))
    task = with_classes(task, present)
    left_out = {reason: len(names) for reason, names in excluded.items()}
    require_classes(task, EVENT_TARGET, present, left_out)
    return _units(task, values[taken][first], chosen, of_row_number, of_row, found, excluded, None)


def _units(
    task: Task,
    values: npt.NDArray[Any],
    ids: npt.NDArray[np.str_],
    of_row: npt.NDArray[np.int64],
    runs: pd.DataFrame,
    events: EventWindows | None,
    excluded: dict[str, npt.NDArray[np.str_]],
    phenotypes: pd.DataFrame | None,
) -> Units:
    """Put together what is known of the units from the first row of each."""
    rows = np.flatnonzero(of_row >= 0)
    first = rows[np.unique(of_row[rows], return_index=True)[1]]
    subject = subjects_of(runs)[first]
    run_ids = runs["run_id"].to_numpy(str)[first]
    within: tuple[npt.NDArray[np.str_], ...] = ()
    if task.unit == "run":
        within = (subject,)
    elif task.unit == "window":
        within = (subject, run_ids)
    site = runs["site"].fillna("").astype(str)
    if phenotypes is not None and "site" in known_columns(phenotypes):
        site = values_of_runs("site", runs, phenotypes).fillna("").astype(str)
    units = {"subject": "subject", "run": "run", "window": "event"}
    labels = Labels(
        task.target[0], "number" if task.kind == "regression" else "classes",
        units[task.unit],  # type: ignore[arg-type]
        of_row, values, families(runs)[first], within,
    )  # fmt: skip
    left_out = {reason: _tally(names) for reason, names in excluded.items()}
    for reason, one in left_out.items():
        _logger.warning("%s: %s left out: %s", task.name, counted(one["count"], task.unit), reason)
    return Units(task, labels, ids, subject, site.to_numpy(str)[first], runs, events, left_out)


def _exclude(
    excluded: dict[str, npt.NDArray[np.str_]], reason: str, units: npt.NDArray[np.str_]
) -> None:
    if len(units):
        excluded[reason] = np.unique(units)


def _tally(units: npt.NDArray[np.str_]) -> dict[str, Any]:
    return {"count": len(units), "units": [name for name in units[:_NAMED].tolist() if name]}
