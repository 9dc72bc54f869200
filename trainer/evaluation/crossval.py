"""Predict every unit of a task by a model that has not seen it, and score each fold.

Whatever is fitted (scaling, regression of confounds, a reference of connectivity, a penalty) is
fitted on the training side of each fold alone. Permuted labels go through the same folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.trainer.evaluation.heads import Features, Head, Problem, constant, linear
from fmritok.trainer.evaluation.metrics import (
    METRICS,
    class_metrics,
    mean_metrics,
    number_metrics,
    retrieval_of_queries,
)
from fmritok.trainer.evaluation.statistics.exchange import exchanges
from fmritok.trainer.evaluation.statistics.intervals import mean_over_folds
from fmritok.trainer.tasks.splits import Fold, grouping
from fmritok.trainer.tasks.units import Units

__all__ = ["FoldPrediction", "Row", "cross_validate", "metrics_of", "retrieve"]

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FoldPrediction:
    """Scores of a fold's test units.

    Attributes
    ----------
    fold : Fold
    test : np.ndarray of shape (n_test,), int64
        Numbers of the units.
    scores : np.ndarray of shape (n_test, n_classes) or (n_test, 1)
        Probabilities of classes, or predicted numbers; of retrieval each query's metrics.
    sd : float
        Standard deviation of the training units' numbers.
    metrics : dict of str to float
        NaN where one cannot be computed.
    permuted : dict of str to np.ndarray of shape (permutations,)
    """

    fold: Fold
    test: Integers
    scores: Floats
    sd: float
    metrics: dict[str, float]
    permuted: dict[str, Floats]


@dataclass(frozen=True)
class Row:
    """One model on one task.

    Attributes
    ----------
    name : str
    predictions : tuple of FoldPrediction
    details : dict
        What else the record should say of it.
    """

    name: str
    predictions: tuple[FoldPrediction, ...]
    details: dict[str, Any] = field(default_factory=dict)

    def metrics(self, units: Units, weights: Floats) -> dict[str, Floats]:
        """Return metrics for each weighting of units: means over folds, then over seeds.

        Parameters
        ----------
        units : Units
        weights : np.ndarray of shape (n_weightings, n_units)
        """
        of_seed: dict[int, list[dict[str, Floats]]] = {}
        for one in self.predictions:
            found = metrics_of(units, one.test, one.scores, one.sd, weights[:, one.test])
            of_seed.setdefault(one.fold.seed, []).append(found)
        means: dict[str, Floats] = {}
        for name in self.predictions[0].metrics:
            seeds = [np.stack([one[name] for one in folds]) for folds in of_seed.values()]
            means[name] = mean_over_folds(np.stack([mean_over_folds(seed) for seed in seeds]))
        return means


def cross_validate(
    units: Units,
    folds: Sequence[Fold],
    features: Features | None,
    *,
    head: Head = linear,
    by: str = "family",
    permutations: int = 0,
) -> tuple[FoldPrediction, ...]:
    """Predict the test units of each fold by a head, by default ridge or logistic regression.

    Its options are chosen within the training side (and validation side, where there is one), in
    folds that keep together what the outer folds do.

    Parameters
    ----------
    units : Units
    folds : sequence of Fold
    features : Features or None
        None: predict the mean of the training units, or the shares of their classes.
    head : Head
        See :mod:`fmritok.trainer.evaluation.heads`.
    by : str
        What inner folds keep together, see :class:`~fmritok.trainer.tasks.task.SplitRule`.
    permutations : int
        Of the labels, for each seed; see :mod:`fmritok.trainer.evaluation.statistics.exchange`.

    Raises
    ------
    ConfigError
        If units have no sites and these are to be kept together.
    """
    from threadpoolctl import threadpool_limits

    group = grouping(units, by)
    found, columns, seed = [], np.zeros((0, 0)), None
    for fold in folds:
        if fold.seed != seed:
            seed, columns = fold.seed, _columns(units, permutations, fold.seed)
        problem = Problem(units, fold, columns, group)
        train, test = problem.train, problem.test
        # Products of a fold are small: threads wait for each other ten times longer than they work.
        with threadpool_limits(1, user_api="blas"):
            scores = constant(problem) if features is None else head(problem, features)
        sd = float(columns[train, 0].std()) if units.task.kind == "regression" else 1.0
        ones = np.ones((1, len(test)))
        metrics = [
            metrics_of(units, test, of_column, sd, ones, truth=truth)
            for of_column, truth in zip(scores, columns[test].T, strict=False)
        ]
        permuted = {
            name: np.array([float(one[name][0]) for one in metrics[1:]]) for name in metrics[0]
        }
        own = {name: float(values[0]) for name, values in metrics[0].items()}
        found.append(FoldPrediction(fold, test, scores[0], sd, own, permuted))
    return tuple(found)


def retrieve(
    units: Units, features: Floats, *, permutations: int = 0
) -> tuple[tuple[FoldPrediction, ...], npt.NDArray[np.str_]]:
    """Find the other runs of each run's target by the correlation of their features.

    Nothing is fitted, so there is one fold that tests everybody.

    Returns
    -------
    predictions : tuple of FoldPrediction
    nearest : np.ndarray of shape (n_units,), str
        Target of the run that is most similar to each.
    """
    similarity = np.asarray(np.corrcoef(features))
    identity = units.labels.values
    ones, nobody = np.ones(len(units), bool), np.zeros(len(units), bool)
    of_query = retrieval_of_queries(similarity, identity)
    generator = np.random.default_rng([0, 3])
    drawn = [
        mean_metrics(retrieval_of_queries(similarity, generator.permutation(identity)))
        for _ in range(permutations)
    ]
    metrics = {name: float(values[0]) for name, values in mean_metrics(of_query).items()}
    permuted = {name: np.array([float(one[name][0]) for one in drawn]) for name in metrics}
    np.fill_diagonal(similarity, -np.inf)
    scores = np.column_stack(list(of_query.values()))
    fold = Fold(0, 0, "", nobody, nobody, ones)
    found = FoldPrediction(fold, np.arange(len(units)), scores, 1.0, metrics, permuted)
    return (found,), identity[similarity.argmax(1)]


def metrics_of(
    units: Units,
    test: Integers,
    scores: Floats,
    sd: float,
    weights: Floats,
    truth: npt.NDArray[Any] | None = None,
) -> dict[str, Floats]:
    """Return the metrics of a task on some of its units, for each weighting of these.

    Parameters
    ----------
    units : Units
    test : np.ndarray of shape (n_test,), int64
    scores : np.ndarray of shape (n_test, n_classes) or (n_test, 1)
    sd : float
        Standard deviation of the training units' numbers.
    weights : np.ndarray of shape (n_weightings, n_test)
    truth : np.ndarray of shape (n_test,), optional
        Instead of the labels: numbers, or numbers of classes.
    """
    if units.task.kind == "retrieval":
        return mean_metrics({"top1": scores[:, 0], "map": scores[:, 1]}, weights)
    if units.task.kind == "regression":
        of_test = units.labels.values[test] if truth is None else truth
        return number_metrics(of_test, scores[:, 0], weights, sd=sd)
    codes: npt.NDArray[Any] = units.codes[test] if truth is None else truth
    found = class_metrics(codes, scores, weights)
    return {name: found[name] for name in METRICS[units.task.kind]}


def _columns(units: Units, permutations: int, seed: int) -> npt.NDArray[Any]:
    """Return the labels, and permuted ones, side by side (n_units, 1 + permutations)."""
    labels = units.labels
    values = labels.values if labels.kind == "number" else units.codes
    order = exchanges((labels.family, *labels.within), count=permutations, seed=seed)
    permuted = values[order]
    if (permuted == values).all():  # no permutation changes anything
        permuted = permuted[:0]
    return np.column_stack([values, permuted.T])
