"""Count the subjects, runs and hours of each cohort in a training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.data.split import Split

__all__ = ["SIDES", "count_cohorts"]

#: Sides of a split, by the names that people read.
SIDES = {"train": "trained on", "validation": "held out"}


def count_cohorts(group: TokenGroup | MixedGroup, split: Split) -> dict[str, Any]:
    """Return subjects, runs and hours of both sides of a split, by cohort.

    Returns
    -------
    dict
        ``{dataset: {"train": {"subjects", "runs", "hours"}, "validation": ...}}``. There are no
        ids: it may be published.
    """
    runs: pd.DataFrame = group.runs
    counts: dict[str, Any] = {}
    for side in SIDES:
        own = runs[runs["run_id"].isin(getattr(split, side))]
        for dataset, rows in own.groupby(own["dataset"].astype(str)):
            seconds = float((rows["tr"] * rows["n_frames"]).sum())
            counts.setdefault(str(dataset), {})[side] = {
                "subjects": int(rows["subject"].astype(str).nunique()),
                "runs": len(rows),
                "hours": round(seconds / 3600, 2),
            }
    return counts
