"""Scores of each seed, and what permuted labels score in the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.trainer.evaluation.metrics import LOWER_IS_BETTER

__all__ = ["Score", "chance"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Score:
    """Figures of one seed.

    Attributes
    ----------
    seed : int
    figures : dict of str to float
        Means over the folds.
    of_folds : dict of str to np.ndarray of shape (n_folds,)
        NaN where a figure cannot be computed; the mean skips it.
    permuted : dict of str to np.ndarray of shape (permutations,)
        Figures of permuted labels in the same folds; may be empty.
    """

    seed: int
    figures: dict[str, float]
    of_folds: dict[str, Floats]
    permuted: dict[str, Floats]


def chance(name: str, scores: Sequence[Score]) -> dict[str, float] | None:
    """Summarise the scores of permuted labels over all seeds; None without any.

    ``limit`` is their best 5 % quantile. ``p`` is the share at least as good as the real labels'
    mean over the seeds. A permuted score is of a single seed and varies more than that mean: p is
    conservative.
    """
    permuted = np.concatenate([score.permuted[name] for score in scores])
    if not len(permuted):
        return None
    sign = -1 if name in LOWER_IS_BETTER else 1
    mean = np.mean([score.figures[name] for score in scores])
    as_good = int((sign * permuted >= sign * mean - 1e-12).sum())
    return {
        "mean": float(permuted.mean()),
        "limit": float(sign * np.quantile(sign * permuted, 0.95)),
        "p": (1 + as_good) / (1 + len(permuted)),
        "permutations": len(permuted),
    }
