"""Score features on a task by a linear model: from units, folds and features to rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fmritok.trainer.evaluation.crossval import Row, cross_validate, retrieve
from fmritok.trainer.evaluation.heads import Features, Head, linear
from fmritok.trainer.evaluation.unit_features import Columns, Residual
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.units import Units

__all__ = ["score_features"]


def score_features(
    units: Units,
    folds: Sequence[Fold],
    name: str,
    features: Features | None,
    *,
    head: Head = linear,
    confounds: pd.DataFrame | None = None,
    permutations: int = 0,
    details: dict[str, Any] | None = None,
) -> list[Row]:
    """Score features on a task, and once more less the confounds, if there are any.

    Parameters
    ----------
    units : Units
    folds : sequence of Fold
        Not looked at for retrieval, which needs no training.
    name : str
    features : Features or None
        None: the mean of the training units, or the shares of their classes.
    head : Head
        Not used for retrieval.
    confounds : pd.DataFrame of n_units rows, optional
    permutations : int
        Of the labels, divided among the seeds.
    details : dict, optional
        What the record should say of the row.
    """
    details = details or {}
    if units.task.kind == "retrieval":
        if features is None:
            raise ValueError("retrieval needs features")
        everybody = np.arange(len(units))
        found, _ = retrieve(units, features.fold(everybody, everybody)[0],
                            permutations=permutations)  # fmt: skip
        return [Row(name, found, details)]
    seeds = len({fold.seed for fold in folds})
    of_seed = -(-permutations // seeds) if features is not None else 0
    by = units.task.split.by if len(folds) > 1 else "family"
    by = "site" if by == "leave-site-out" else by
    found = cross_validate(units, folds, features, head=head, by=by, permutations=of_seed)
    rows = [Row(name, found, details)]
    if confounds is not None and features is not None:
        less = Residual(features, Columns(confounds))
        found = cross_validate(units, folds, less, head=head, by=by, permutations=of_seed)
        named = ", ".join(map(str, confounds.columns))
        rows.append(Row(f"{name} less {named}", found, {**details, "regressed": named}))
    return rows
