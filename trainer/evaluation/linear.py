"""Linear models of wide features: ridge and logistic regression, their strength chosen in folds.

Both penalise squared weights, so a rotation of the features does not change what they predict. One
decomposition for each fold then serves all strengths, and any number of columns of labels.
"""

# N units, T units to predict, P features, R directions, Y columns of numbers, K classes

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
_RANK = 1e-10  # of the largest variance: below it there is only rounding

Floats = npt.NDArray[np.floating[Any]]


class Rotated:
    """Features, standardised over training units, in their principal directions.

    Parameters
    ----------
    x_NP : np.ndarray of shape (N, P)
        Of the training units.

    Attributes
    ----------
    train : np.ndarray of shape (N, R)
    squares : np.ndarray of shape (R,)
        Sum of the squares of each direction; directions are orthogonal.
    """

    def __init__(self, x_NP: Floats) -> None:
        from sklearn.preprocessing import StandardScaler

        self._scaler = StandardScaler().fit(x_NP)
        z_NP = self._scaler.transform(x_NP)
        wide = z_NP.shape[1] > len(z_NP)
        squares, vectors = np.linalg.eigh(z_NP @ z_NP.T if wide else z_NP.T @ z_NP)
        kept = squares > max(squares[-1], 1e-300) * _RANK
        self.squares, vectors = squares[kept], vectors[:, kept]
        self._onto_PR = z_NP.T @ (vectors / np.sqrt(self.squares)) if wide else vectors
        self.train = z_NP @ self._onto_PR

    def of(self, x_TP: Floats) -> Floats:
        """Return other units' features in the same directions (T, R)."""
        return np.asarray(self._scaler.transform(x_TP) @ self._onto_PR)


def ridge(x_NP: Floats, y_NY: Floats, family: npt.NDArray[np.str_], x_TP: Floats) -> Floats:
    """Predict numbers, each column by the penalty that predicts it best in folds of families.

    Parameters
    ----------
    x_NP : np.ndarray of shape (N, P)
    y_NY : np.ndarray of shape (N, Y)
    family : np.ndarray of shape (N,), str
    x_TP : np.ndarray of shape (T, P)

    Returns
    -------
    np.ndarray of shape (T, Y)
    """
    penalties = _PENALTIES * x_NP.shape[1] / 100
    errors = np.zeros((len(penalties), y_NY.shape[1]))
    inner = number_folds(family, folds=min(_INNER_FOLDS, len(np.unique(family))), seed=0)
    if inner is None:
        errors += np.abs(np.arange(len(penalties)) - len(penalties) // 2)[:, None]
    else:
        for fold in range(inner.max() + 1):
            held = inner == fold
            rotated = Rotated(x_NP[~held])
            z_TR = rotated.of(x_NP[held])
            for own, penalty in zip(errors, penalties, strict=True):
                own += np.square(_ridge(rotated, y_NY[~held], z_TR, penalty) - y_NY[held]).sum(0)
    rotated = Rotated(x_NP)
    return _ridge(rotated, y_NY, rotated.of(x_TP), penalties[errors.argmin(0)])


def _ridge(rotated: Rotated, y_NY: Floats, z_TR: Floats, penalty: float | Floats) -> Floats:
    mean_Y = y_NY.mean(0)
    weights_RY = rotated.train.T @ (y_NY - mean_Y) / (rotated.squares[:, None] + penalty)
    return np.asarray(z_TR @ weights_RY + mean_Y)


def choose_strength(
    x_NP: Floats, y_N: npt.NDArray[np.int64], family: npt.NDArray[np.str_], n_classes: int
) -> float:
    """Return the strength of logistic regression that predicts best in folds of families.

    With fewer than two families of a class there are no such folds, and a weak one is taken.

    Parameters
    ----------
    x_NP : np.ndarray of shape (N, P)
    y_N : np.ndarray of shape (N,), int
        Number of each unit's class.
    family : np.ndarray of shape (N,), str
    n_classes : int
    """
    most = min(len(np.unique(family[y_N == code])) for code in np.unique(y_N))
    inner = class_folds(y_N, family, folds=min(_INNER_FOLDS, most), seed=0)
    if inner is None:
        return _DEFAULT_STRENGTH
    losses = np.zeros(len(_STRENGTHS))
    for fold in range(inner.max() + 1):
        held = inner == fold
        rotated = Rotated(x_NP[~held])
        z_TR = rotated.of(x_NP[held])
        for i, strength in enumerate(_STRENGTHS):
            found_TK = logistic(rotated, y_N[~held], z_TR, float(strength), n_classes)
            true_T = found_TK[np.arange(len(z_TR)), y_N[held]]
            losses[i] -= np.log(np.maximum(true_T, 1e-15)).sum()
    return float(_STRENGTHS[losses.argmin()])


def logistic(
    rotated: Rotated, y_N: npt.NDArray[np.int64], z_TR: Floats, strength: float, n_classes: int
) -> Floats:
    """Predict the probability of each class (T, K), by logistic regression of balanced classes.

    Parameters
    ----------
    rotated : Rotated
        Features of the training units.
    y_N : np.ndarray of shape (N,), int
        Number of each one's class. A class without any gets the probability 0.
    z_TR : np.ndarray of shape (T, R)
        Of the units to predict, from :meth:`Rotated.of`.
    strength : float
    n_classes : int
    """
    from sklearn.linear_model import LogisticRegression

    probabilities = np.zeros((len(z_TR), n_classes))
    seen = np.unique(y_N)
    if len(seen) < 2 or not len(rotated.squares):
        probabilities[:, seen] = 1 / len(seen)
        return probabilities
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    probabilities[:, seen] = model.fit(rotated.train, y_N).predict_proba(z_TR)
    return probabilities
