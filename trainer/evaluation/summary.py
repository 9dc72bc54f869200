"""Sum up the scores of models on a task: means, intervals, chance, and paired differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.metrics import METRICS
from fmritok.trainer.evaluation.statistics.chance import Score, chance
from fmritok.trainer.evaluation.statistics.intervals import (
    DRAWS,
    bootstrap,
    drawn_counts,
    interval,
    mean_over_folds,
)
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.units import Units

__all__ = ["FORMAT", "Results", "summary"]

FORMAT = "fmritok scores 1"


@dataclass(frozen=True)
class Results:
    """Rows of models on the same units and folds.

    Attributes
    ----------
    units : Units
    folds : tuple of Fold
    rows : tuple of Row
    details : dict
        What else the record should say: store, group, split file, overlap with a pretraining.
    """

    units: Units
    folds: tuple[Fold, ...]
    rows: tuple[Row, ...]
    details: dict[str, Any] = field(default_factory=dict)


def summary(results: Results, *, draws: int = DRAWS) -> dict[str, Any]:
    """Sum up the scores of all rows, and their paired differences by the task's metric.

    Parameters
    ----------
    results : Results
    draws : int
        Of the bootstrap over families of units; every row gets the same ones.

    Raises
    ------
    ConfigError
        If the task's metric could be computed in no fold.
    """
    units, task = results.units, results.units.task
    counts = drawn_counts(units.labels.family, draws=draws)
    ones = np.ones((1, len(units)))
    rows, drawn, own = [], {}, {}
    for row in results.rows:
        scores = _scores(row)
        drawn[row.name] = bootstrap(partial(row.metrics, units), counts)
        point = row.metrics(units, ones)
        own[row.name] = float(point[task.metric][0])
        if np.isnan(own[row.name]):
            raise ConfigError(
                expected("Folds", f"of task {task.name}", f"one in which {task.metric} can be "
                         "computed", "labels that are all the same within each fold",
                         "Choose another split, or fewer folds.")
            )  # fmt: skip
        figures = {}
        for name in METRICS[task.kind]:
            values = [score.figures[name] for score in scores]
            figures[name] = {
                "mean": _number(point[name][0]),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "interval": interval(drawn[row.name][name]),
                "chance": chance(name, scores),
                "seeds": [_number(value) for value in values],
                "folds": [[_number(x) for x in score.of_folds[name]] for score in scores],
            }
        rows.append({"row": row.name, **row.details, "figures": figures})
    differences = []
    for one, other in combinations(own, 2):
        of_draws = drawn[other][task.metric] - drawn[one][task.metric]
        mean, bounds = own[other] - own[one], interval(of_draws)
        differences.append(
            {"row": other, "minus": one, "metric": task.metric, "mean": mean, "interval": bounds}
        )
    names, numbers = np.unique(units.labels.values, return_counts=True)
    return {
        "format": FORMAT,
        "task": task.name,
        "target": task.target[0],
        "kind": task.kind,
        "unit": task.unit,
        "metric": task.metric,
        "n_units": len(units),
        "n_subjects": len(np.unique(units.subject)),
        "n_families": len(np.unique(units.labels.family)),
        "classes": {str(n): int(c) for n, c in zip(names, numbers, strict=True)}
        if task.kind in ("binary", "multiclass") else None,
        "excluded": units.excluded,
        "folds": [
            {"seed": f.seed, "fold": f.number, "name": f.name, "train": int(f.train.sum()),
             "validation": int(f.validation.sum()), "test": int(f.test.sum()),
             "sha256": f.sha256(units.ids)} for f in results.folds
        ],
        "not_scored": _not_scored(results),
        "bootstrap": {"draws": draws, "of": "families of units"},
        **results.details,
        "rows": rows,
        "differences": differences,
    }  # fmt: skip


def _scores(row: Row) -> list[Score]:
    """Gather the folds of each seed in a :class:`Score`."""
    scores = []
    for seed in dict.fromkeys(one.fold.seed for one in row.predictions):
        own = [one for one in row.predictions if one.fold.seed == seed]
        of_folds = {name: np.array([one.metrics[name] for one in own]) for name in own[0].metrics}
        permuted = {
            name: mean_over_folds(np.stack([one.permuted[name] for one in own]))
            for name in of_folds
        }
        scores.append(
            Score(
                seed,
                {name: float(mean_over_folds(values)) for name, values in of_folds.items()},
                of_folds,
                {name: values[~np.isnan(values)] for name, values in permuted.items()},
            )
        )
    return scores


def _not_scored(results: Results) -> list[dict[str, Any]]:
    """Name the folds in which a metric could not be computed."""
    found = []
    for one in results.rows[0].predictions:
        lacking = [name for name, value in one.metrics.items() if np.isnan(value)]
        if lacking:
            labels = np.unique(results.units.labels.values[one.test])
            found.append({"seed": one.fold.seed, "fold": one.fold.number, "name": one.fold.name,
                          "metrics": lacking, "n_labels": len(labels)})  # fmt: skip
    return found


def _number(value: Any) -> float | None:
    """Return a number as JSON has it, which has no NaN."""
    return None if np.isnan(value) else float(value)
