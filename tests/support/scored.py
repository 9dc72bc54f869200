"""Small folders of results, as the commands of tasks write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from people import some_units

from fmritok.trainer.evaluation.results import Results, write_results
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.unit_features import Fixed
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import Task


def write_scores(
    out: Path, task: Task, *, name: str = "probe", strength: float = 1.5, dummy: bool = False
) -> Path:
    """Write results of a row that predicts a task as well as its strength allows."""
    units = some_units(task, 30)
    folds = folds_of(units, units.task.split)
    x = np.random.default_rng(0).standard_normal((len(units), 4))
    numbers = units.labels.values if units.task.kind == "regression" else units.codes
    x[:, 0] += strength * (numbers - numbers.mean()) / numbers.std()
    rows = score_features(units, folds, name, Fixed(x, units.ids), permutations=2)
    if dummy:
        rows += score_features(units, folds, "dummy", None)
    write_results(out, Results(units, tuple(folds), tuple(rows), {"overlap": None}), draws=40)
    return out
