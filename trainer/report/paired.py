"""Paired differences of rows that were written by different commands, from their predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.trainer.evaluation.metrics import class_metrics, mean_metrics, number_metrics
from fmritok.trainer.evaluation.statistics.intervals import (
    DRAWS,
    bootstrap,
    drawn_counts,
    interval,
    mean_over_folds,
)

__all__ = ["metric_of_draws", "paired_difference"]

Floats = npt.NDArray[np.floating[Any]]

_KEYS = ["seed", "fold", "unit"]


def paired_difference(
    one: pd.DataFrame, other: pd.DataFrame, tree: Mapping[str, Any], *, draws: int = DRAWS
) -> dict[str, Any] | None:
    """Return the difference of two rows by the task's metric, with a bootstrap interval.

    Families are drawn whole, the same ones for both rows, as for the intervals of each.

    Parameters
    ----------
    one, other : pd.DataFrame
        Predictions of a row each, as in ``predictions.csv``.
    tree : dict
        ``scores.json``: kind, metric, classes.
    draws : int

    Returns
    -------
    dict or None
        ``mean, interval``, of the first less the second; None if units, folds or truth differ.
    """
    one, other = (part.sort_values(_KEYS).reset_index(drop=True) for part in (one, other))
    if len(one) != len(other) or not (one[_KEYS] == other[_KEYS]).all(axis=None):
        return None
    if not (one["truth"] == other["truth"]).all():
        return None
    families = np.unique(one["family"].to_numpy(str))
    counts = drawn_counts(families, draws=draws)
    ones = np.ones((1, len(families)))
    of_all = metric_of_draws(one, tree, ones) - metric_of_draws(other, tree, ones)
    of_draws = metric_of_draws(one, tree, counts) - metric_of_draws(other, tree, counts)
    return {"mean": float(of_all[0]), "interval": interval(of_draws)}


def metric_of_draws(row: pd.DataFrame, tree: Mapping[str, Any], counts: Floats) -> Floats:
    """Return the task's metric for each drawing of families: mean over folds, then over seeds.

    Parameters
    ----------
    row : pd.DataFrame
        Predictions of one row.
    tree : dict
    counts : np.ndarray of shape (draws, n_families)
        How often each family counts, in the order of their names.

    Returns
    -------
    np.ndarray of shape (draws,)
    """
    _, family = np.unique(row["family"].to_numpy(str), return_inverse=True)
    seeds = row["seed"].to_numpy()
    folds = [
        (seed, np.flatnonzero(((row["seed"] == seed) & (row["fold"] == fold)).to_numpy()))
        for seed, fold in row[["seed", "fold"]].drop_duplicates().itertuples(index=False)
    ]

    def metric(some: Floats) -> dict[str, Floats]:
        of_seed: dict[Any, list[Floats]] = {seed: [] for seed in np.unique(seeds)}
        for seed, members in folds:
            weights = some[:, family[members]]
            of_seed[seed].append(_metric(row.iloc[members], tree, weights))
        means = [mean_over_folds(np.stack(parts)) for parts in of_seed.values()]
        return {"metric": mean_over_folds(np.stack(means))}

    return bootstrap(metric, counts)["metric"]


def _metric(part: pd.DataFrame, tree: Mapping[str, Any], weights: Floats) -> Floats:
    kind, name = tree["kind"], tree["metric"]
    if kind == "retrieval":
        of_unit = {"map": part["score"].to_numpy(float),
                   "top1": part["found_first"].to_numpy(float)}  # fmt: skip
        return mean_metrics(of_unit, weights)[name]
    if kind == "regression":
        truth, score = part["truth"].to_numpy(float), part["score"].to_numpy(float)
        return number_metrics(truth, score, weights, sd=float(part["sd"].iloc[0]))[name]
    classes = [column[2:-1] for column in part.columns if column.startswith("p(")]
    numbers = {one: number for number, one in enumerate(classes)}
    codes = part["truth"].map(numbers).to_numpy().astype(np.int64)
    scores = part[[f"p({name})" for name in classes]].to_numpy(float)
    return class_metrics(codes, scores, weights)[name]
