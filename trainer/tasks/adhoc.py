"""A task made of a column's name, for probes without a YAML."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fmritok.trainer.data.labels import EVENT_TARGET, runs_where
from fmritok.trainer.data.phenotypes import as_words, values_of_runs
from fmritok.trainer.tasks.columns import find_column
from fmritok.trainer.tasks.task import Kind, Task

__all__ = ["task_of_column"]

_METRICS: dict[str, str] = {
    "binary": "auroc",
    "multiclass": "balanced_accuracy",
    "regression": "r",
    "retrieval": "top1",
}


def task_of_column(
    column: str,
    runs: pd.DataFrame,
    phenotypes: pd.DataFrame,
    events: pd.DataFrame,
    *,
    where: Sequence[str] = (),
    trial_types: Sequence[str] = (),
) -> Task:
    """Make a task that predicts a column.

    Text, booleans and numbers of two values are classes; other columns are numbers. Units are
    subjects, of properties of runs (``task``, ``session``, ...) runs, of ``trial_type`` windows.

    Parameters
    ----------
    column : str
        Of the phenotypes, a property of runs, or ``trial_type``; ``subject`` is a fingerprint.
    runs, phenotypes, events : pd.DataFrame
    where : sequence of str
        ``column=value``, see :func:`fmritok.trainer.data.labels.runs_where`.
    trial_types : sequence of str
        Conditions to tell apart; empty: all.

    Raises
    ------
    ConfigError
        If there is no such column; names near ones.
    """
    runs = runs_where(runs, where).reset_index(drop=True)
    if column == EVENT_TARGET:
        of_runs = events["trial_type"][events["run_id"].isin(runs["run_id"])]
        names = trial_types or sorted(set(of_runs[of_runs != ""].tolist()))
        classes: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
        kind: Kind = "binary" if len(names) == 2 else "multiclass"
        return Task(column, (column,), kind, "window", _METRICS[kind], classes=classes)
    found = find_column([column], phenotypes, what="Column", where="of --target")
    if found == "subject":
        return Task(column, (found,), "retrieval", "run", _METRICS["retrieval"])
    values = values_of_runs(found, runs, phenotypes)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    distinct = set(as_words(values.dropna()).tolist())
    kind = "regression" if numeric else "multiclass"
    if len(distinct) == 2:
        kind = "binary"
    unit = "subject" if found in phenotypes.columns else "run"
    return Task(column, (found,), kind, unit, _METRICS[kind])  # type: ignore[arg-type]
