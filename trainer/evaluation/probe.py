"""Score linear probes of a frozen encoder's features under cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.progress import tracked
from fmritok.trainer.data.labels import Labels
from fmritok.trainer.data.split import Split, check_no_leakage
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.exchange import exchanges
from fmritok.trainer.evaluation.folds import fold_splits
from fmritok.trainer.evaluation.linear import Rotated, choose_strength, logistic, ridge

__all__ = ["Score", "probe"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Score:
    """Figures of one seed. Each unit is predicted once, by a model fitted without its family.

    Attributes
    ----------
    seed : int
    figures : dict of str to float
        Means over the folds.
    splits : tuple of Split
        One for each fold.
    of_folds : dict of str to np.ndarray of shape (n_folds,)
        NaN for a fold of equal labels; the mean skips it.
    permuted : dict of str to np.ndarray of shape (permutations,)
        Figures of permuted labels in the same folds; may be empty.
    """

    seed: int
    figures: dict[str, float]
    splits: tuple[Split, ...]
    of_folds: dict[str, Floats] = field(default_factory=dict)
    permuted: dict[str, Floats] = field(default_factory=dict)


def probe(
    features: Floats,
    labels: Labels,
    runs: pd.DataFrame,
    *,
    seeds: Sequence[int],
    folds: int = 5,
    permutations: int = 0,
) -> list[Score]:
    """Score a linear probe under cross-validation, once per seed of the folds.

    Features are averaged over the rows of a unit and standardised on the training units. The
    penalty is chosen in inner folds of the training units, with families kept together. Each fold
    is scored separately: the mean prediction differs between folds and correlates negatively with
    the labels, which would bias joint scores.

    Parameters
    ----------
    features : np.ndarray of shape (n_rows, n_features)
        Of runs, or of events.
    labels : Labels
    runs : pd.DataFrame
        The run of each row.
    seeds : sequence of int
    folds : int
    permutations : int
        Permutations of the labels per seed, see :mod:`fmritok.trainer.evaluation.exchange`. The
        penalty is chosen anew for permuted numbers; permuted classes use that of the real labels.

    Raises
    ------
    LeakageError
        If a subject or family is on both sides of a fold.
    ConfigError
        If there are too few units for the folds.
    """
    used = labels.of_row >= 0
    counts = np.bincount(labels.of_row[used])
    x = np.zeros((len(labels.values), features.shape[1]))
    np.add.at(x, labels.of_row[used], features[used].astype(np.float64))
    x /= counts[:, None]
    run_ids = runs["run_id"].to_numpy(str)
    scores = []
    for seed in tracked(seeds, len(seeds), "seeds"):
        columns = _columns(labels, permutations, seed)
        splits, of_folds = [], []
        for test in fold_splits(labels, folds=folds, seed=seed):
            of_test = np.zeros(len(runs), bool)
            of_test[used] = test[labels.of_row[used]]
            sides = (np.unique(run_ids[side]).tolist() for side in (used & ~of_test, of_test))
            split = Split(*map(tuple, sides))
            check_no_leakage(runs, split)
            splits.append(split)
            score = _score_numbers if labels.kind == "number" else _score_classes
            of_folds.append(score(x, columns, labels.family, test))
        tables = {name: np.stack([one[name] for one in of_folds]) for name in of_folds[0]}
        means = {name: _mean(table) for name, table in tables.items()}
        for name, mean in means.items():
            if np.isnan(mean[0]):
                raise ConfigError(
                    expected("Option", "--target", f"{labels.target} that differs within a fold",
                             f"no fold with a figure {name}", "Choose another column.")
                )  # fmt: skip
        scores.append(
            Score(
                seed,
                {name: float(mean[0]) for name, mean in means.items()},
                tuple(splits),
                {name: table[:, 0] for name, table in tables.items()},
                {name: mean[1:][~np.isnan(mean[1:])] for name, mean in means.items()},
            )
        )
    return scores


def _columns(labels: Labels, permutations: int, seed: int) -> npt.NDArray[Any]:
    """Return the labels and permuted labels as columns (n_units, 1 + permutations).

    Classes are numbered. There are no permuted columns if no permutation changes the labels.
    """
    values = labels.values
    if labels.kind == "classes":
        values = np.unique(values, return_inverse=True)[1]
    order = exchanges((labels.family, *labels.within), count=permutations, seed=seed)
    permuted = values[order]
    if (permuted == values).all():
        permuted = permuted[:0]
    return np.column_stack([values, permuted.T])


def _score_numbers(
    x: Floats, y: Floats, family: npt.NDArray[np.str_], test: npt.NDArray[np.bool_]
) -> dict[str, Floats]:
    """Return r, mean absolute error and r2 of each column.

    r2 is the reduction of the squared error relative to predicting the mean of the training units.
    """
    predicted, truth = ridge(x[~test], y[~test], family[~test], x[test]), y[test]
    error = predicted - truth
    baseline = np.square(truth - y[~test].mean(0)).sum(0)
    a, b = predicted - predicted.mean(0), truth - truth.mean(0)
    lengths = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    # Constant predictions: r is 0. Constant labels: r is NaN.
    r = np.where(lengths > 0, (a * b).sum(0) / np.where(lengths > 0, lengths, 1), 0.0)
    return {
        "r": np.where(np.ptp(truth, axis=0) > 0, r, np.nan),
        "mae": np.abs(error).mean(0),
        "r2": 1 - np.square(error).sum(0) / np.where(baseline > 0, baseline, np.nan),
    }


def _score_classes(
    x: Floats,
    y: npt.NDArray[np.int64],
    family: npt.NDArray[np.str_],
    test: npt.NDArray[np.bool_],
) -> dict[str, Floats]:
    """Return balanced accuracy of each column, and for two classes the area under the ROC curve.

    NaN if a class is missing in the held-out labels.
    """
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    n_classes = int(y.max()) + 1
    strength = choose_strength(x[~test], y[~test, 0], family[~test], n_classes)
    rotated = Rotated(x[~test])
    z_test = rotated.of(x[test])
    names = ("balanced_accuracy", "auc") if n_classes == 2 else ("balanced_accuracy",)
    figures = {name: np.full(y.shape[1], np.nan) for name in names}
    for i, column in enumerate(y.T):
        truth = column[test]
        if len(np.unique(truth)) < n_classes:
            continue
        found = logistic(rotated, column[~test], z_test, strength, n_classes)
        figures["balanced_accuracy"][i] = balanced_accuracy_score(truth, found.argmax(1))
        if n_classes == 2:
            figures["auc"][i] = roc_auc_score(truth, found[:, 1])
    return figures


def _mean(of_folds: Floats) -> Floats:
    """Average over folds, skipping NaN; NaN if all are."""
    there = ~np.isnan(of_folds)
    counts = there.sum(0)
    return np.where(counts > 0, np.nansum(of_folds, 0) / np.maximum(counts, 1), np.nan)
