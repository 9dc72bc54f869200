"""Fit ridge and logistic regression of wide features, with the penalty chosen in inner folds.

Both penalise squared weights: a rotation of the features does not change predictions. One
decomposition per fold serves all penalties and all columns of labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.trainer.evaluation.folds import class_folds, number_folds

__all__ = ["Rotated", "choose_strength", "logistic", "ridge"]

_PENALTIES = np.logspace(-1, 5, 13)  # of ridge, for every 100 features
_STRENGTHS = np.logspace(-4, 1, 6)  # of logistic regression: the inverse of a penalty
_DEFAULT_STRENGTH = float(_STRENGTHS[1])
_INNER_FOLDS = 3
_RANK = 1e-10  # of the largest variance; smaller ones are rounding

Floats = npt.NDArray[np.floating[Any]]


class Rotated:
    """Features, standardised over training units, in their principal directions.

    Parameters
    ----------
    x : np.ndarray of shape (n_units, n_features)
        Features of the training units.

    Attributes
    ----------
    train : np.ndarray of shape (n_units, n_directions)
    squares : np.ndarray of shape (n_directions,)
        Sum of the squares of each direction; directions are orthogonal.
    """

    def __init__(self, x: Floats) -> None:
        from sklearn.preprocessing import StandardScaler

        self._scaler = StandardScaler().fit(x)
        z = self._scaler.transform(x)
        wide = z.shape[1] > len(z)
        squares, vectors = np.linalg.eigh(z @ z.T if wide else z.T @ z)
        kept = squares > max(squares[-1], 1e-300) * _RANK
        self.squares, vectors = squares[kept], vectors[:, kept]
        self._directions = z.T @ (vectors / np.sqrt(self.squares)) if wide else vectors
        self.train = z @ self._directions

    def of(self, x_test: Floats) -> Floats:
        """Return other units' features in the same directions (n_test, n_directions)."""
        return np.asarray(self._scaler.transform(x_test) @ self._directions)


def ridge(x: Floats, y: Floats, family: npt.NDArray[np.str_], x_test: Floats) -> Floats:
    """Predict numbers by ridge regression; each column has its own penalty, chosen in inner folds.

    Parameters
    ----------
    x : np.ndarray of shape (n_units, n_features)
    y : np.ndarray of shape (n_units, n_columns)
    family : np.ndarray of shape (n_units,), str
    x_test : np.ndarray of shape (n_test, n_features)

    Returns
    -------
    np.ndarray of shape (n_test, n_columns)
    """
    penalties = _PENALTIES * x.shape[1] / 100
    errors = np.zeros((len(penalties), y.shape[1]))
    inner = number_folds(family, folds=min(_INNER_FOLDS, len(np.unique(family))), seed=0)
    if inner is None:
        errors += np.abs(np.arange(len(penalties)) - len(penalties) // 2)[:, None]
    else:
        for fold in range(inner.max() + 1):
            held = inner == fold
            rotated = Rotated(x[~held])
            z_test = rotated.of(x[held])
            for own, penalty in zip(errors, penalties, strict=True):
                own += np.square(_ridge(rotated, y[~held], z_test, penalty) - y[held]).sum(0)
    rotated = Rotated(x)
    return _ridge(rotated, y, rotated.of(x_test), penalties[errors.argmin(0)])


def _ridge(rotated: Rotated, y: Floats, z_test: Floats, penalty: float | Floats) -> Floats:
    mean = y.mean(0)
    weights = rotated.train.T @ (y - mean) / (rotated.squares[:, None] + penalty)
    return np.asarray(z_test @ weights + mean)


def choose_strength(
    x: Floats, y: npt.NDArray[np.int64], family: npt.NDArray[np.str_], n_classes: int
) -> float:
    """Return the strength of logistic regression (inverse penalty) with the best inner folds.

    Inner folds need two families of every class. Without them, a default is returned.

    Parameters
    ----------
    x : np.ndarray of shape (n_units, n_features)
    y : np.ndarray of shape (n_units,), int
        Class of each unit.
    family : np.ndarray of shape (n_units,), str
    n_classes : int
    """
    most = min(len(np.unique(family[y == code])) for code in np.unique(y))
    inner = class_folds(y, family, folds=min(_INNER_FOLDS, most), seed=0)
    if inner is None:
        return _DEFAULT_STRENGTH
    losses = np.zeros(len(_STRENGTHS))
    for fold in range(inner.max() + 1):
        held = inner == fold
        rotated = Rotated(x[~held])
        z_test = rotated.of(x[held])
        for i, strength in enumerate(_STRENGTHS):
            found = logistic(rotated, y[~held], z_test, float(strength), n_classes)
            true = found[np.arange(len(z_test)), y[held]]
            losses[i] -= np.log(np.maximum(true, 1e-15)).sum()
    return float(_STRENGTHS[losses.argmin()])


def logistic(
    rotated: Rotated, y: npt.NDArray[np.int64], z_test: Floats, strength: float, n_classes: int
) -> Floats:
    """Return class probabilities (n_test, n_classes) by logistic regression of balanced classes.

    Parameters
    ----------
    rotated : Rotated
        Features of the training units.
    y : np.ndarray of shape (n_units,), int
        Class of each unit. A class without units gets probability 0.
    z_test : np.ndarray of shape (n_test, n_directions)
        Features of the units to predict, from :meth:`Rotated.of`.
    strength : float
    n_classes : int
    """
    from sklearn.linear_model import LogisticRegression

    probabilities = np.zeros((len(z_test), n_classes))
    seen = np.unique(y)
    if len(seen) < 2 or not len(rotated.squares):
        probabilities[:, seen] = 1 / len(seen)
        return probabilities
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    probabilities[:, seen] = model.fit(rotated.train, y).predict_proba(z_test)
    return probabilities
