"""Features of units, each fitted on the training side of a fold where it is fitted at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.evaluation.crossval import Features

__all__ = ["Columns", "Edges", "Fixed", "Residual"]

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fixed:
    """Features that are the same in every fold.

    Attributes
    ----------
    values : np.ndarray of shape (n_units, n_features)
    ids : np.ndarray of shape (n_units,), str
        Names of the units, for errors.

    Raises
    ------
    TrainingError
        If a value is not finite.
    """

    values: Floats
    ids: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        wrong = np.asarray(~np.isfinite(self.values).all(axis=1))
        if wrong.any():
            raise TrainingError(
                expected("Features", f"of {', '.join(self.ids[wrong][:3])}", "finite numbers",
                         f"NaN or infinity in {wrong.sum()} of {len(wrong)} units",
                         "Check these runs with `fmritok verify`, or leave them out with --where.")
            )  # fmt: skip

    def fold(self, train: Integers, test: Integers) -> tuple[Floats, Floats]:
        """Return the rows of both sides."""
        return self.values[train], self.values[test]


@dataclass(frozen=True)
class Edges:
    """Connections between parcels; those of parcels without a signal are NaN.

    A missing connection gets the mean of the training units, and one that is missing in more than
    half of them is left out.

    Attributes
    ----------
    values : np.ndarray of shape (n_units, n_edges)
    """

    values: Floats

    def fold(self, train: Integers, test: Integers) -> tuple[Floats, Floats]:
        """Return the connections of both sides, completed from the first alone."""
        x, x_test = self.values[train], self.values[test]
        there = ~np.isnan(x)
        kept = there.mean(0) > 0.5
        counts = np.maximum(there.sum(0), 1)
        mean = np.where(there, x, 0).sum(0, dtype=np.float64) / counts
        sides = [np.where(np.isnan(side), mean, side)[:, kept] for side in (x, x_test)]
        return sides[0], sides[1]


@dataclass(frozen=True)
class Columns:
    """Columns of numbers, and of names as one variable for each name.

    A name that the training units do not have counts as their average.

    Attributes
    ----------
    table : pd.DataFrame of n_units rows
        Without missing values.
    """

    table: pd.DataFrame

    def fold(self, train: Integers, test: Integers) -> tuple[Floats, Floats]:
        """Return the variables of both sides, less the mean of the first."""
        both: list[tuple[Floats, Floats]] = []
        for name in self.table:
            column = self.table[name].to_numpy()
            if pd.api.types.is_numeric_dtype(self.table[name]):
                mean = column[train].mean()
                both.append((column[train, None] - mean, column[test, None] - mean))
                continue
            names = np.unique(column[train].astype(str))
            own, others = (column[side].astype(str)[:, None] == names for side in (train, test))
            mean = own.mean(0)
            known = others.any(1, keepdims=True)
            both.append((own - mean, np.where(known, others - mean, 0.0)))
        x, x_test = (np.concatenate(parts, axis=1) for parts in zip(*both, strict=True))
        return x, x_test


@dataclass(frozen=True)
class Residual:
    """Features less what confounds explain of them linearly in the training units.

    Attributes
    ----------
    features : Features
    confounds : Columns
    """

    features: Features
    confounds: Columns

    def fold(self, train: Integers, test: Integers) -> tuple[Floats, Floats]:
        """Return the residuals of both sides, by the coefficients of the first."""
        x, x_test = self.features.fold(train, test)
        c, c_test = self.confounds.fold(train, test)
        mean = x.mean(0)
        weights = np.linalg.lstsq(c, x - mean, rcond=1e-10)[0]
        return x - mean - c @ weights, x_test - mean - c_test @ weights
