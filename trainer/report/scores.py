"""Scores of tasks for the report: folders of results joined by task, baselines on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmritok.quantities import counted
from fmritok.trainer.baselines.rows import KINDS
from fmritok.trainer.evaluation.metrics import LOWER_IS_BETTER
from fmritok.trainer.evaluation.results import read_results
from fmritok.trainer.finetuning.engine import CONTROL
from fmritok.trainer.report.paired import paired_difference

__all__ = ["ScoredRow", "TaskScores", "is_baseline", "join_scores"]


@dataclass(frozen=True)
class ScoredRow:
    """One row of a folder of results.

    Attributes
    ----------
    name : str
    folder : Path
    tree : dict
        Its part of ``scores.json``.
    predictions : pd.DataFrame
        Its part of ``predictions.csv``.
    """

    name: str
    folder: Path
    tree: dict[str, Any]
    predictions: pd.DataFrame

    @property
    def baseline(self) -> bool:
        """Whether it needs no encoder."""
        return is_baseline(self.name)

    def figure(self, metric: str) -> dict[str, Any]:
        """Return mean, SD, interval and chance of a metric."""
        return dict(self.tree["figures"][metric])


@dataclass(frozen=True)
class TaskScores:
    """All rows of a task.

    Attributes
    ----------
    tree : dict
        ``scores.json`` of the first folder: task, target, kind, unit, metric, classes.
    rows : list of ScoredRow
        Baselines first.
    reference : ScoredRow
        The best baseline; the best row if there is none.
    best : ScoredRow
        The best row that is neither a baseline nor one of permuted labels; the reference if there
        is none.
    differences : list of dict
        ``row, minus, metric, mean, interval`` of every other row against the reference.
    excluded : list of dict
        ``reason, count, units``.
    notes : list of str
    """

    tree: dict[str, Any]
    rows: list[ScoredRow]
    reference: ScoredRow
    best: ScoredRow
    differences: list[dict[str, Any]]
    excluded: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """What models are selected by."""
        return str(self.tree["metric"])


def is_baseline(name: str) -> bool:
    """Tell whether a row is one of ``fmritok baseline``."""
    return name.split(" ")[0] in KINDS


def join_scores(folders: Sequence[Path]) -> list[TaskScores]:
    """Read folders of results, and join those of the same task.

    Raises
    ------
    ConfigError
        If a folder is not whole.
    """
    by_task: dict[str, list[tuple[Path, dict[str, Any], pd.DataFrame]]] = {}
    for folder in folders:
        tree, predictions = read_results(folder)
        by_task.setdefault(str(tree["task"]), []).append((folder, tree, predictions))
    return [_joined(parts) for parts in by_task.values()]


def _joined(parts: list[tuple[Path, dict[str, Any], pd.DataFrame]]) -> TaskScores:
    tree = parts[0][1]
    rows: list[ScoredRow] = []
    for folder, one, predictions in parts:
        taken = {row.name for row in rows}
        for row in one["rows"]:
            own = predictions[predictions["row"] == row["row"]].reset_index(drop=True)
            name = row["row"] if row["row"] not in taken else f"{row['row']} ({folder.name})"
            rows.append(ScoredRow(name, folder, row, own))
    rows.sort(key=lambda row: not row.baseline)
    metric = tree["metric"]
    baselines = [row for row in rows if row.baseline]
    models = [row for row in rows if not (row.baseline or row.name.startswith(CONTROL))]
    reference = _best(baselines or rows, metric)
    best = _best(models, metric) if models else reference
    differences, notes = _differences(rows, reference, tree)
    if not baselines:
        notes.append("No baseline was scored on this task: run `fmritok baseline` on the same "
                     "folds, and give its folder with --scores.")  # fmt: skip
    excluded = [
        {"reason": reason, "count": one["count"], "units": one["units"]}
        for reason, one in tree["excluded"].items()
    ]
    for one in tree.get("not_scored", []):
        notes.append(f"Fold {one['fold']} of seed {one['seed']} {one['name']} has no "
                     f"{', '.join(one['metrics'])}.")  # fmt: skip
    for _, one, _ in parts:
        if one.get("overlap"):
            seen = one["overlap"]
            notes.append(f"The pretraining {seen['training']} has seen {seen['seen']} of "
                         f"{counted(seen['test_subjects'], 'tested subject')}.")  # fmt: skip
    return TaskScores(tree, rows, reference, best, differences, excluded,
                      list(dict.fromkeys(notes)))  # fmt: skip


def _best(rows: Sequence[ScoredRow], metric: str) -> ScoredRow:
    sign = -1 if metric in LOWER_IS_BETTER else 1

    def value(row: ScoredRow) -> float:
        mean = row.figure(metric)["mean"]
        return -np.inf if mean is None else sign * float(mean)

    return max(rows, key=value)


def _differences(
    rows: Sequence[ScoredRow], reference: ScoredRow, tree: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    found, notes = [], []
    for row in rows:
        if row is reference:
            continue
        difference = paired_difference(row.predictions, reference.predictions, tree)
        if difference is None:
            notes.append(f"{row.name} and {reference.name} were tested on other units or folds: "
                         "their difference is not paired, and not shown.")  # fmt: skip
        else:
            found.append({"row": row.name, "minus": reference.name, "metric": tree["metric"],
                          **difference})  # fmt: skip
    return found, notes
