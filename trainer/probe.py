"""Linear probes: what can be read off a frozen encoder's features, subjects and families apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.pipeline.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.labels import Labels
from fmritok.trainer.split import Split, check_no_leakage

__all__ = ["Score", "fold_splits", "probe"]

_STRENGTHS = np.logspace(-4, 1, 6)
_PENALTIES = np.logspace(-1, 5, 13)
_INNER_FOLDS = 3

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Score:
    """Figures of one seed: every unit was predicted once, by a model that saw no relative of it."""

    seed: int
    figures: dict[str, float]
    splits: tuple[Split, ...]


def fold_splits(labels: Labels, *, folds: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Return which units each fold holds out: families kept together, classes spread evenly.

    Raises
    ------
    ConfigError
        If all units are of one family.
    """
    names, family = np.unique(labels.family, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(
            expected("Option", "--target", f"{labels.target} of two or more subjects or families",
                     "one", "Probe a store with more of them.")
        )  # fmt: skip
    folds = min(folds, len(names))
    held_out = np.zeros(len(labels.values), dtype=np.int64)
    if labels.kind == "classes":
        from sklearn.model_selection import StratifiedGroupKFold

        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, test) in enumerate(splitter.split(family, labels.values, family)):
            held_out[test] = fold
    else:
        order = np.random.default_rng(seed).permutation(len(names))
        held_out = (order % folds)[family]
    return [held_out == fold for fold in range(folds) if (held_out == fold).any()]


def probe(
    features: Floats,
    labels: Labels,
    runs: pd.DataFrame,
    *,
    seeds: Sequence[int],
    folds: int = 5,
) -> list[Score]:
    """Score a linear probe under cross-validation, once for each seed of the folds.

    Features are averaged over a unit's rows and standardised on the training units; the strength
    of the regularisation is chosen within them.

    Parameters
    ----------
    features : np.ndarray of shape (n_rows, n_features)
        Of runs, or of events.
    labels : Labels
    runs : pd.DataFrame
        The run of each row.
    seeds : sequence of int
    folds : int

    Raises
    ------
    LeakageError
        If a subject or family is on both sides of a fold.
    """
    used = labels.of_row >= 0
    counts = np.bincount(labels.of_row[used])
    x = np.zeros((len(labels.values), features.shape[1]))
    np.add.at(x, labels.of_row[used], features[used].astype(np.float64))
    x /= counts[:, None]
    run_ids = runs["run_id"].to_numpy(str)
    scores = []
    for seed in seeds:
        predicted: Floats | None = None
        splits = []
        for test in fold_splits(labels, folds=folds, seed=seed):
            of_test = np.zeros(len(runs), bool)
            of_test[used] = test[labels.of_row[used]]
            sides = (np.unique(run_ids[side]).tolist() for side in (used & ~of_test, of_test))
            split = Split(*map(tuple, sides))
            check_no_leakage(runs, split)
            splits.append(split)
            part = _predict(x[~test], labels.values[~test], labels.family[~test], x[test], labels)
            if predicted is None:
                predicted = np.zeros((len(x), *part.shape[1:]))
            predicted[test] = part
        assert predicted is not None
        scores.append(Score(seed, _figures(predicted, labels), tuple(splits)))
    return scores


def _predict(
    x: Floats, y: npt.NDArray[Any], family: npt.NDArray[np.str_], x_test: Floats, labels: Labels
) -> Floats:
    """Fit on training units; return class probabilities (of all classes) or numbers."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if labels.kind == "number":
        model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES * x.shape[1] / 100))
        return np.asarray(model.fit(x, y).predict(x_test))

    def logistic(strength: float) -> Any:
        return make_pipeline(
            StandardScaler(),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=2000),
        )

    classes = np.unique(labels.values)
    probabilities = np.zeros((len(x_test), len(classes)))
    seen, counts = np.unique(y, return_counts=True)
    if len(seen) < 2:
        probabilities[:, np.searchsorted(classes, seen)] = 1.0
        return probabilities
    strength = float(_STRENGTHS[1])
    per_class = min(len(np.unique(family[y == name])) for name in seen)
    if min(per_class, counts.min()) >= _INNER_FOLDS:
        inner = StratifiedGroupKFold(_INNER_FOLDS, shuffle=True, random_state=0)
        losses = [
            cross_val_score(
                logistic(c), x, y, groups=family, cv=inner, scoring="neg_log_loss",
                params=None, error_score=-np.inf,
            ).mean()
            for c in _STRENGTHS
        ]  # fmt: skip
        strength = float(_STRENGTHS[int(np.argmax(losses))])
    model = logistic(strength).fit(x, y)
    probabilities[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(x_test)
    return probabilities


def _figures(predicted: Floats, labels: Labels) -> dict[str, float]:
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    if labels.kind == "number":
        error = predicted - labels.values
        spread = float(np.std(predicted))
        r = float(np.corrcoef(predicted, labels.values)[0, 1]) if spread > 0 else 0.0
        explained = 1 - float(np.mean(error**2) / np.var(labels.values))
        return {"r": r, "mae": float(np.mean(np.abs(error))), "r2": explained}
    classes = np.unique(labels.values)
    chosen = classes[predicted.argmax(1)]
    figures = {"balanced_accuracy": float(balanced_accuracy_score(labels.values, chosen))}
    if len(classes) == 2:
        auc = roc_auc_score(labels.values == classes[1], predicted[:, 1])
        figures["auc"] = float(auc)
    return figures
