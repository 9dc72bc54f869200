"""The field's metrics, each for many weightings of the same units at once.

A weighting says how often each unit counts: all once gives the metric itself, and counts of units
drawn with replacement give a bootstrap, a thousand draws in one product. The tests compare every
metric with scikit-learn's (SciPy's for correlations), on the units and on units drawn repeatedly.
A metric that cannot be computed, such as the AUROC of one class, is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "LOWER_IS_BETTER", "METRICS", "class_metrics", "mean_metrics", "number_metrics",
    "retrieval_of_queries",
]  # fmt: skip

#: The metrics of each kind of task.
METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("acc", "balanced_accuracy", "macro_f1", "auroc", "sensitivity", "specificity"),
    "multiclass": ("acc", "balanced_accuracy", "macro_f1", "auroc_ovr"),
    "regression": ("mae", "mse", "r", "spearman", "r2", "mae_sd", "mse_sd"),
    "retrieval": ("top1", "map"),
}
LOWER_IS_BETTER = ("mae", "mse", "mae_sd", "mse_sd")

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


def class_metrics(
    truth: Integers, scores: Floats, weights: Floats | None = None
) -> dict[str, Floats]:
    """Return accuracy, balanced accuracy, macro F1 and areas under ROC curves.

    Parameters
    ----------
    truth : np.ndarray of shape (N,), int
        Number of each unit's class. Of two classes, 1 is the positive one.
    scores : np.ndarray of shape (N, K)
        Score of each class; the highest one is predicted.
    weights : np.ndarray of shape (B, N), optional
        How often each unit counts; by default each once, and B is 1.

    Returns
    -------
    dict of str to np.ndarray of shape (B,)
        ``acc, balanced_accuracy, macro_f1, auroc_ovr``, the last one the mean over classes of each
        against the rest; and with two classes ``auroc, sensitivity, specificity``.
    """
    weights = _ones(truth) if weights is None else weights
    n_classes = scores.shape[1]
    is_class = truth[:, None] == np.arange(n_classes)
    predicted = (scores.argmax(1)[:, None] == np.arange(n_classes)).astype(float)
    confusion = np.stack([(weights * is_class[:, k]) @ predicted for k in range(n_classes)], axis=1)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, found = confusion.sum(2), confusion.sum(1)
    recall = _ratio(right, true)
    f1 = _ratio(2 * right, true + found)
    # The areas of two classes are the same: their probabilities add up to 1.
    areas = [
        _auroc(is_class[:, k], scores[:, k], weights) for k in range(n_classes == 2, n_classes)
    ]
    metrics = {
        "acc": _ratio(right.sum(1), true.sum(1)),
        "balanced_accuracy": _mean_there(recall),
        "macro_f1": _mean_there(f1),
        "auroc_ovr": np.mean(areas, axis=0),
    }
    if n_classes == 2:
        metrics |= {"auroc": areas[0], "sensitivity": recall[:, 1], "specificity": recall[:, 0]}
    return metrics


def number_metrics(
    truth: Floats, found: Floats, weights: Floats | None = None, *, sd: float = 1.0
) -> dict[str, Floats]:
    """Return errors, correlations and explained variance of predicted numbers.

    Parameters
    ----------
    truth, found : np.ndarray of shape (N,)
    weights : np.ndarray of shape (B, N), optional
        As in :func:`class_metrics`.
    sd : float
        Standard deviation that errors are also given in: that of the training units.

    Returns
    -------
    dict of str to np.ndarray of shape (B,)
        ``mae, mse`` in the target's unit, ``mae_sd, mse_sd`` in standard deviations, ``r, spearman,
        r2``. A prediction without spread has the correlations 0, a truth without spread has none.
    """
    weights = _ones(truth) if weights is None else weights
    total = weights.sum(1)
    error = found - truth
    mae, mse = (_ratio(weights @ x, total) for x in (np.abs(error), np.square(error)))
    spread = _moments(_alike(truth, weights), _alike(truth, weights), weights)
    return {
        "mae": mae,
        "mse": mse,
        "r": _correlation(_alike(truth, weights), _alike(found, weights), weights),
        "spearman": _correlation(_ranks(truth, weights), _ranks(found, weights), weights),
        "r2": 1 - _ratio(mse, np.where(spread > 1e-24 * (1 + truth.var()), spread, 0)),
        "mae_sd": _ratio(mae, np.full_like(mae, sd)),
        "mse_sd": _ratio(mse, np.full_like(mse, sd**2)),
    }


def retrieval_of_queries(similarity: Floats, identity: npt.NDArray[Any]) -> dict[str, Floats]:
    """Return how well each unit finds the others of its identity among all other units.

    Parameters
    ----------
    similarity : np.ndarray of shape (N, N)
    identity : np.ndarray of shape (N,)
        Such as the subject of each run; each at least twice.

    Returns
    -------
    dict of str to np.ndarray of shape (N,)
        ``top1``: 1 if the most similar other unit is of the same identity. ``map``: average
        precision; its mean over the queries is the mean average precision.
    """
    n_units = len(identity)
    top1, precision = np.zeros(n_units), np.zeros(n_units)
    for query in range(n_units):
        others = np.delete(np.arange(n_units), query)
        order = others[np.argsort(-similarity[query, others], kind="stable")]
        relevant = identity[order] == identity[query]
        rank = np.flatnonzero(relevant) + 1
        top1[query] = relevant[0]
        precision[query] = (np.arange(1, len(rank) + 1) / rank).mean() if len(rank) else np.nan
    return {"top1": top1, "map": precision}


def mean_metrics(of_unit: dict[str, Floats], weights: Floats | None = None) -> dict[str, Floats]:
    """Average what each unit has over the units, for each weighting."""
    first = next(iter(of_unit.values()))
    weights = _ones(first) if weights is None else weights
    return {name: _ratio(weights @ x, weights.sum(1)) for name, x in of_unit.items()}


def _auroc(positive: npt.NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """Return the share of pairs in the right order, ties counted half."""
    order, starts, _ = _ties(score)
    positive = positive[order]
    weights = weights[:, order]
    up = np.add.reduceat(weights * positive, starts, axis=1)
    down = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return _ratio((up * below).sum(1), up.sum(1) * down.sum(1))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank of each unit (B, N), were it there as often as it counts."""
    order, starts, group = _ties(values)
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(counts, axis=1) - counts / 2 + 0.5
    return np.asarray(ranks[:, group])


def _ties(values: Floats) -> tuple[Integers, Integers, Integers]:
    """Return an ascending order, where equal values start in it, and each value's number."""
    order = np.argsort(values, kind="stable")
    changes = np.flatnonzero(np.diff(values[order])) + 1
    group = np.zeros(len(values), np.int64)
    group[order[changes]] = 1
    of_place = np.cumsum(group[order])
    group[order] = of_place
    return order, np.concatenate([[0], changes]).astype(np.int64), group


def _alike(values: Floats, weights: Floats) -> Floats:
    """Return the same values, less their mean, for all weightings."""
    return np.broadcast_to(values - values.mean(), weights.shape)


def _correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    variances = _moments(a, a, weights), _moments(b, b, weights)
    has_a, has_b = (
        variance > 1e-24 * (1 + np.square(x).max())
        for variance, x in zip(variances, (a, b), strict=True)
    )
    product = np.sqrt(np.where(has_a & has_b, variances[0] * variances[1], 1))
    found = np.where(has_b, _moments(a, b, weights) / product, 0.0)
    return np.where(has_a, found, np.nan)


def _moments(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Return the covariance under each weighting (B,)."""
    total = weights.sum(1)
    mean_a, mean_b = (_ratio((weights * x).sum(1), total)[:, None] for x in (a, b))
    return _ratio((weights * (a - mean_a) * (b - mean_b)).sum(1), total)


def _ratio(a: Floats, b: Floats) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    return np.where(b > 0, a / np.where(b > 0, b, 1), np.nan)


def _mean_there(x: Floats) -> Floats:
    there = ~np.isnan(x)
    return _ratio(np.where(there, x, 0).sum(1), there.sum(1).astype(float))


def _ones(x: npt.NDArray[Any]) -> Floats:
    return np.ones((1, len(x)))
