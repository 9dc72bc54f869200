"""A small cohort as tables (two runs of each subject, families of two, sites), and scores of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.results import write_results
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.evaluation.unit_features import Fixed
from fmritok.trainer.tasks.splits import Fold, folds_of
from fmritok.trainer.tasks.task import SplitRule, Task
from fmritok.trainer.tasks.units import Units, units_of


def people(n_subjects: int = 24) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs and the phenotypes; siblings are of one site."""
    subject = [f"{100 + i // 2}" for i in range(2 * n_subjects)]
    sites = [("NYU", "UCLA", "KKI")[(i // 4) % 3] for i in range(2 * n_subjects)]
    runs = pd.DataFrame(
        {"run_id": [f"demo_{s}_{i % 2}" for i, s in enumerate(subject)], "dataset": "demo",
         "subject": subject, "session": "1", "site": sites, "tr": 2.0, "row": range(len(subject)),
         "start": 0, "n_frames": 40, "task": ["rest", "motor"] * n_subjects,
         "family": [f"F{i // 4}" for i in range(2 * n_subjects)]}
    )  # fmt: skip
    phenotypes = pd.DataFrame(
        {"dataset": "demo", "subject": [f"{100 + i}" for i in range(n_subjects)], "session": "",
         "sex": ["M", "F"] * (n_subjects // 2), "age": np.arange(n_subjects) + 20.0,
         "same": "x", "group": [1, 2] * (n_subjects // 2),
         "mean_fd": 0.1 + 0.01 * (np.arange(n_subjects) % 7)}
    )  # fmt: skip
    return runs, phenotypes


def a_task(target: str = "sex", kind: Any = "binary", unit: Any = "subject", **more: Any) -> Task:
    """Make a task of a few folds."""
    metric = {"binary": "auroc", "multiclass": "acc", "regression": "r", "retrieval": "top1"}[kind]
    more.setdefault("split", SplitRule("family", 3, 2))
    return Task("mine", (target,), kind, unit, metric, **more)


def some_units(task: Task | None = None, n_subjects: int = 24) -> Units:
    """Return the units of a task in that cohort."""
    return units_of(task or a_task(), *people(n_subjects))


def scored_row(
    units: Units, folds: Sequence[Fold], name: str, strength: float, seed: int = 0
) -> Row:
    """Score features of which one predicts a task as well as its strength allows."""
    x = np.random.default_rng(seed).standard_normal((len(units), 4))
    numbers = units.labels.values if units.task.kind == "regression" else units.codes
    x[:, 0] += strength * (numbers - numbers.mean()) / numbers.std()
    (row,) = score_features(units, folds, name, Fixed(x, units.ids), permutations=2)
    return row


def write_scores(
    out: Path, task: Task, *, name: str = "probe", strength: float = 1.5, dummy: bool = False,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write results of such a row."""
    units = some_units(task, 30)
    folds = folds_of(units, units.task.split)
    rows = [scored_row(units, folds, name, strength, seed)]
    if dummy:
        rows += score_features(units, folds, "dummy", None)
    write_results(out, Results(units, tuple(folds), tuple(rows), {"overlap": None}), draws=40)
    return out
