"""Heads that predict a fold's test units from features: linear, logistic, nearest neighbours.

Each is fitted on the training side alone, for every column of labels: the real ones, then permuted
ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.folds import class_folds, number_folds
from fmritok.trainer.evaluation.linear import (
    PUBLISHED,
    Rotated,
    choose_strength,
    logistic,
    ridge,
)
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.units import Units

__all__ = ["Features", "Head", "Problem", "constant", "linear", "neighbours", "published_logistic"]

#: Numbers of neighbours to choose from.
_NEIGHBOURS = (1, 3, 5, 10, 20, 50)
_INNER_FOLDS = 3

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


class Features(Protocol):
    """What a head predicts from; may be fitted on the training units of a fold."""

    def fold(self, train: Integers, test: Integers) -> tuple[Floats, Floats]:
        """Return the features of training and of test units, fitted on the first alone."""
        ...


@dataclass(frozen=True)
class Problem:
    """A fold with the labels of its units.

    Attributes
    ----------
    units : Units
    fold : Fold
    columns : np.ndarray of shape (n_units, 1 + permutations)
        Numbers, or numbers of classes: the real labels, then permuted ones.
    group : np.ndarray of shape (n_units,), str
        What inner folds keep together.
    """

    units: Units
    fold: Fold
    columns: npt.NDArray[Any]
    group: npt.NDArray[np.str_]

    @property
    def of_classes(self) -> bool:
        """Whether labels are classes."""
        return self.units.task.kind != "regression"

    @property
    def train(self) -> Integers:
        """Units that a model is fitted on: the training side, and the validation side."""
        return np.flatnonzero(self.fold.train | self.fold.validation)

    @property
    def test(self) -> Integers:
        """Units that are predicted."""
        return np.flatnonzero(self.fold.test)


#: From a problem and features to the scores of the test units, for each column of labels.
Head = Callable[[Problem, Any], list[Floats]]


def constant(problem: Problem, features: object = None) -> list[Floats]:
    """Predict the mean of the training units, or the shares of their classes."""
    labels, n_test = problem.columns[problem.train], len(problem.test)
    if not problem.of_classes:
        return [np.full((n_test, 1), column.mean()) for column in labels.T]
    n_classes = len(problem.units.classes)
    shares = [np.bincount(column, minlength=n_classes) for column in labels.T]
    return [np.tile(share / share.sum(), (n_test, 1)) for share in shares]


def linear(problem: Problem, features: Features) -> list[Floats]:
    """Predict numbers by ridge regression, classes by logistic regression of balanced classes."""
    x, x_test = features.fold(problem.train, problem.test)
    labels, group = problem.columns[problem.train], problem.group[problem.train]
    if not problem.of_classes:
        return [found[:, None] for found in ridge(x, labels, group, x_test).T]
    n_classes = len(problem.units.classes)
    strength = choose_strength(x, labels[:, 0], group, n_classes)
    rotated = Rotated(x)
    z_test = rotated.of(x_test)
    return [logistic(rotated, column, z_test, strength, n_classes) for column in labels.T]


def published_logistic(problem: Problem, features: Features) -> list[Floats]:
    """Predict classes by logistic regression as Brainmarks does.

    Classes are not balanced. One of ten penalties is chosen by accuracy in five inner folds.

    Raises
    ------
    ConfigError
        If labels are numbers.
    """
    if not problem.of_classes:
        raise ConfigError(
            expected("Head", f"logistic of task {problem.units.task.name}", "classes", "numbers",
                     "Choose --head linear.")
        )  # fmt: skip
    x, x_test = features.fold(problem.train, problem.test)
    labels, group = problem.columns[problem.train], problem.group[problem.train]
    n_classes = len(problem.units.classes)
    strength = choose_strength(x, labels[:, 0], group, n_classes, PUBLISHED)
    rotated = Rotated(x)
    z_test = rotated.of(x_test)
    return [
        logistic(rotated, column, z_test, strength, n_classes, weight=None) for column in labels.T
    ]


def neighbours(problem: Problem, features: Features) -> list[Floats]:
    """Predict the mean of the nearest training units, by the cosine of standardised features.

    The number of neighbours is chosen by the squared error in inner folds. Scores of classes are
    their shares among the neighbours.
    """
    x, x_test = features.fold(problem.train, problem.test)
    labels, group = problem.columns[problem.train], problem.group[problem.train]
    n_classes = len(problem.units.classes)
    values = np.eye(n_classes)[labels[:, 0]] if problem.of_classes else labels[:, :1]
    errors = np.zeros(len(_NEIGHBOURS))
    inner = _inner_folds(labels[:, 0], group, of_classes=problem.of_classes)
    for fold in range(0 if inner is None else int(inner.max()) + 1):
        held = inner == fold
        order = _nearest(x[~held], x[held])
        for i, k in enumerate(_NEIGHBOURS):
            found = values[~held][order[:, :k]].mean(1)
            errors[i] += np.square(found - values[held]).sum()
    k = _NEIGHBOURS[int(errors.argmin())] if inner is not None else _NEIGHBOURS[2]
    chosen = _nearest(x, x_test)[:, :k]
    if not problem.of_classes:
        return [column[chosen].mean(1)[:, None] for column in labels.T]
    return [np.eye(n_classes)[column][chosen].mean(1) for column in labels.T]


def _inner_folds(
    labels: npt.NDArray[Any], group: npt.NDArray[np.str_], *, of_classes: bool
) -> Integers | None:
    if not of_classes:
        return number_folds(group, folds=min(_INNER_FOLDS, len(np.unique(group))), seed=0)
    most = min(len(np.unique(group[labels == code])) for code in np.unique(labels))
    return class_folds(labels, group, folds=min(_INNER_FOLDS, most), seed=0)


def _nearest(x: Floats, x_test: Floats) -> Integers:
    """Return the training units of each test unit, the most similar first."""
    mean, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    sides = [(side - mean) * scale for side in (x_test, x)]
    lengths = [np.maximum(np.linalg.norm(side, axis=1), 1e-12) for side in sides]
    similarity = (sides[0] / lengths[0][:, None]) @ (sides[1] / lengths[1][:, None]).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, : max(_NEIGHBOURS)]
