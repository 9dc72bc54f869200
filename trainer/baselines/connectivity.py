"""Functional connectivity of parcels by nilearn: Pearson, partial, and in tangent space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.trainer.baselines.features import Edges
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.crossval import Features

__all__ = ["CONNECTIVITY", "MIN_FRAMES", "Connectivity", "Tangent", "connectivity"]

Connectivity = Literal["pearson", "partial", "tangent"]
CONNECTIVITY: tuple[Connectivity, ...] = get_args(Connectivity)
#: Fewer frames say nothing of how parcels go together.
MIN_FRAMES = 20

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


def connectivity(series: Sequence[Floats], kind: Connectivity) -> tuple[Features, dict[str, Any]]:
    """Return the connections between parcels of each unit.

    Parameters
    ----------
    series : sequence of np.ndarray of shape (n_frames, n_parcels)
        Of each unit. A parcel that does not vary has no signal.
    kind : {"pearson", "partial", "tangent"}
        ``pearson``: Fisher's z of correlations. ``partial``: of partial correlations, by a
        covariance with Ledoit and Wolf's shrinkage. ``tangent``: displacement of that covariance
        from the geometric mean of the training units, fitted in each fold.

    Returns
    -------
    features : Features
    details : dict
        ``connectivity``, ``parcels``, and how many have no signal in some unit: their connections
        are completed (``pearson``), or they are left out (``partial``, ``tangent``).

    Raises
    ------
    ConfigError
        If there are fewer than three parcels with signal.
    """
    dead = np.stack([np.ptp(one, axis=0) <= 1e-6 * np.abs(one).max(initial=0) for one in series])
    some = np.asarray(dead.any(0))
    details = {
        "connectivity": kind,
        "parcels": len(some),
        "parcels_without_signal": int(some.sum()),
    }
    left = ~dead.all(0) if kind == "pearson" else ~some
    if left.sum() < 3:
        raise ConfigError(
            expected("Parcels", f"for {kind} connectivity", "three or more with a signal in every "
                     "unit", int(left.sum()), "Choose --connectivity pearson, or other runs.")
        )  # fmt: skip
    chosen = [np.asarray(one[:, left], np.float64) for one in series]
    if kind == "tangent":
        return Tangent(chosen), details
    return Edges(_fisher(chosen, kind, dead[:, left])), details


def _fisher(
    series: Sequence[Floats], kind: Connectivity, dead: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return Fisher's z of the connections (n_units, n_edges); NaN of parcels without signal."""
    from nilearn.connectome import ConnectivityMeasure, sym_matrix_to_vec
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf

    estimator = EmpiricalCovariance() if kind == "pearson" else LedoitWolf()
    name = {"pearson": "correlation", "partial": "partial correlation"}[kind]
    n_parcels = series[0].shape[1]
    found = np.full((len(series), n_parcels * (n_parcels - 1) // 2), np.nan, np.float32)
    for row, (one, without) in enumerate(zip(series, dead, strict=True)):
        measure = ConnectivityMeasure(kind=name, cov_estimator=estimator, standardize=False)
        matrix = np.full((n_parcels, n_parcels), np.nan)
        there = np.flatnonzero(~without)
        matrix[np.ix_(there, there)] = measure.fit_transform([one[:, there]])[0]
        edges = sym_matrix_to_vec(matrix, discard_diagonal=True)
        found[row] = np.arctanh(np.clip(edges, -1 + 1e-7, 1 - 1e-7))
    return found


@dataclass
class Tangent:
    """Connectivity in the tangent space at the training units' geometric mean.

    Attributes
    ----------
    series : sequence of np.ndarray of shape (n_frames, n_parcels)
    """

    series: Sequence[Floats]
    _last: tuple[bytes, Any] = field(default=(b"", None), repr=False)

    def fold(self, train: Integers, test: Integers) -> tuple[Floats, Floats]:
        """Return the displacements of both sides from the mean of the first."""
        from nilearn.connectome import ConnectivityMeasure

        key = train.tobytes()
        if self._last[0] != key:  # with and without confounds, a fold has the same mean
            measure = ConnectivityMeasure(kind="tangent", vectorize=True, standardize=False)
            self._last = key, measure.fit([self.series[i] for i in train])
        measure = self._last[1]
        x, x_test = (
            np.asarray(measure.transform([self.series[i] for i in side])) for side in (train, test)
        )
        return x, x_test
