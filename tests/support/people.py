"""A small cohort as tables: two runs of each subject, families of two, three sites."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

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
