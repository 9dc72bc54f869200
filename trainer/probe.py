"""Linear probes: what can be read off a frozen encoder's features, subjects and families apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.pipeline.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.split import Split, check_no_leakage, families

__all__ = ["Labels", "Score", "fold_splits", "labels_of", "probe"]

_STRENGTHS = np.logspace(-4, 1, 6)
_PENALTIES = np.logspace(-1, 5, 13)
_INNER_FOLDS = 3
_RUN_COLUMNS = ("task", "session", "site", "dataset")

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Labels:
    """What is to be read off: one label of each unit, a subject or a run.

    Attributes
    ----------
    target : str
    kind : {"classes", "number"}
    unit : {"subject", "run"}
    of_run : np.ndarray of shape (n_runs,), int64
        Unit of each run of the table; -1 if it has no label.
    values : np.ndarray of shape (n_units,)
        Classes as text, or numbers.
    family : np.ndarray of shape (n_units,), str
    """

    target: str
    kind: Literal["classes", "number"]
    unit: Literal["subject", "run"]
    of_run: npt.NDArray[np.int64]
    values: npt.NDArray[Any]
    family: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Score:
    """Figures of one seed: every unit was predicted once, by a model that saw no relative of it."""

    seed: int
    figures: dict[str, float]
    splits: tuple[Split, ...]


def labels_of(target: str, runs: pd.DataFrame, phenotypes: pd.DataFrame) -> Labels:
    """Find a target by its column: of the subjects' table, else of the runs'.

    Text and truth values are classes, and so are numbers with two values; others are numbers.

    Raises
    ------
    ConfigError
        If there is no such column, or fewer than two different labels in it.
    """
    names = [c for c in phenotypes.columns if c not in ("dataset", "subject", "session")]
    subject = (runs["dataset"].astype(str) + "/" + runs["subject"].astype(str)).to_numpy(str)
    if target in names:
        key = phenotypes["dataset"].astype(str) + "/" + phenotypes["subject"].astype(str)
        column = pd.Series(phenotypes[target].to_numpy(), index=key.to_numpy())
        column = column[column.notna() & (column.astype(str) != "")]
        of_subject = column[~column.index.duplicated()].reindex(subject)  # the first session's
        units, unit, values = subject, "subject", of_subject.reset_index(drop=True)
    elif target in runs.columns and target in _RUN_COLUMNS:
        units, unit, values = (
            runs["run_id"].to_numpy(str),
            "run",
            runs[target].reset_index(drop=True),
        )
    else:
        columns = ", ".join([*names, *_RUN_COLUMNS])
        raise ConfigError(
            expected("Option", "--target", f"one of {columns}", target, "Choose one of them.")
        )
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    known = values.notna().to_numpy()
    if not numeric:
        values = values.astype(str)
        known = known & (values != "").to_numpy()
    distinct = sorted(values[known].unique().tolist())
    if len(distinct) < 2:
        raise ConfigError(
            expected("Option", "--target", f"two or more different labels in {target}",
                     ", ".join(map(str, distinct)) or "none", "Choose another column.")
        )  # fmt: skip
    chosen, first, inverse = np.unique(units[known], return_index=True, return_inverse=True)
    of_run = np.full(len(runs), -1)
    of_run[known] = inverse
    kind: Literal["classes", "number"] = "number" if numeric and len(distinct) > 2 else "classes"
    labels = values[known].to_numpy()[first]
    return Labels(
        target, kind, unit, of_run,  # type: ignore[arg-type]
        labels.astype(float) if kind == "number" else labels.astype(str),
        families(runs)[known][first],
    )  # fmt: skip


def fold_splits(labels: Labels, *, folds: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Return which units each fold holds out: families kept together, classes spread evenly."""
    names, family = np.unique(labels.family, return_inverse=True)
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

    Features are averaged over a unit's runs and standardised on the training units; the strength
    of the regularisation is chosen within them.

    Parameters
    ----------
    features : np.ndarray of shape (n_runs, n_features)
    labels : Labels
    runs : pd.DataFrame
        In the order of the features.
    seeds : sequence of int
    folds : int

    Raises
    ------
    LeakageError
        If a subject or family is on both sides of a fold.
    """
    used = labels.of_run >= 0
    counts = np.bincount(labels.of_run[used])
    x = np.zeros((len(labels.values), features.shape[1]))
    np.add.at(x, labels.of_run[used], features[used].astype(np.float64))
    x /= counts[:, None]
    run_ids = runs["run_id"].to_numpy(str)
    scores = []
    for seed in seeds:
        predicted: Floats | None = None
        splits = []
        for test in fold_splits(labels, folds=folds, seed=seed):
            of_test = np.zeros(len(runs), bool)
            of_test[used] = test[labels.of_run[used]]
            split = Split(tuple(sorted(run_ids[used & ~of_test])), tuple(sorted(run_ids[of_test])))
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
