"""Bootstrap intervals over units: families are drawn whole, and all rows get the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DRAWS", "bootstrap", "drawn_counts", "interval", "mean_over_folds"]

DRAWS = 1000
_CHUNK = 100  # draws that are computed together

Floats = npt.NDArray[np.floating[Any]]


def drawn_counts(groups: npt.NDArray[Any], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Draw groups of units with replacement; the number of groups stays the same.

    Parameters
    ----------
    groups : np.ndarray of shape (n_units,)
        What is drawn whole: units of a family are alike, and are no independent evidence.
    draws, seed : int

    Returns
    -------
    np.ndarray of shape (draws, n_units), float32
        How often each unit is there in each draw.
    """
    names, of_unit = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng([seed, 2])
    shares = np.full(len(names), 1 / len(names))
    counts = generator.multinomial(len(names), shares, size=draws)
    return counts.astype(np.float32)[:, of_unit]


def bootstrap(metrics: Callable[[Floats], dict[str, Floats]], counts: Floats) -> dict[str, Floats]:
    """Return metrics of each draw, some draws at a time.

    Parameters
    ----------
    metrics : callable
        From counts (B, n_units) to metrics (B,) by name.
    counts : np.ndarray of shape (draws, n_units)
    """
    parts = [
        metrics(counts[first : first + _CHUNK].astype(np.float64))
        for first in range(0, len(counts), _CHUNK)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean_over_folds(of_folds: Floats) -> Floats:
    """Average over the first axis what is there; NaN where nothing is."""
    there = ~np.isnan(of_folds)
    counts = there.sum(0)
    return np.where(counts > 0, np.nansum(of_folds, 0) / np.maximum(counts, 1), np.nan)


def interval(draws: Floats) -> list[float] | None:
    """Return the bounds of the central 95 % of the draws; None if there are none."""
    there = draws[~np.isnan(draws)]
    if not len(there):
        return None
    return [float(bound) for bound in np.quantile(there, [0.025, 0.975])]
