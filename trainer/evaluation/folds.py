"""Divide units into folds: families stay together, every fold can be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.quantities import counted, plural
from fmritok.trainer.data.labels import Labels
from fmritok.trainer.errors import ConfigError

__all__ = ["class_folds", "fold_splits", "number_folds"]

_SCORED = 3  # units per fold: the correlation of two is always 1 or -1
_ATTEMPTS = 20
_NAMED = 10  # classes, in an error
#: Random attempts when stratified folds miss a class, with few families.
_DRAWS = 200

Folds = npt.NDArray[np.int64]


def fold_splits(
    labels: Labels, *, folds: int, seed: int, group: str = "family"
) -> list[npt.NDArray[np.bool_]]:
    """Return the held-out units of each fold: families together, classes balanced.

    Every fold has units of every class, or three or more numbers.

    Parameters
    ----------
    labels : Labels
    folds : int
    seed : int
    group : str
        What an error calls a family, which may be a site.

    Returns
    -------
    list of np.ndarray of shape (n_units,), bool
        One for each fold; every unit is held out once.

    Raises
    ------
    ConfigError
        If there are too few units or families for this number of folds.
    """
    found = _scored_folds(labels, folds, seed)
    if found is None:
        fewer = (k for k in range(folds - 1, 1, -1) if _scored_folds(labels, k, seed) is not None)
        raise _too_few(labels, folds, next(fewer, None), group)
    return [found == fold for fold in range(folds)]


def _scored_folds(labels: Labels, folds: int, seed: int) -> Folds | None:
    """Return the fold of each unit; None if a fold could not be scored."""
    if labels.kind == "classes":
        return class_folds(labels.values, labels.family, folds=folds, seed=seed)
    found = number_folds(labels.family, folds=folds, seed=seed)
    if found is None or np.bincount(found, minlength=folds).min() < _SCORED:
        return None
    return found


def class_folds(
    values: npt.NDArray[Any], family: npt.NDArray[np.str_], *, folds: int, seed: int
) -> Folds | None:
    """Return the fold of each unit, with all classes in each fold; None if not found.

    Parameters
    ----------
    values, family : np.ndarray of shape (n_units,)
        Class and family of each unit.
    folds, seed : int
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2 or min(_families_of_classes(values, family).values()) < folds:
        return None
    codes = np.unique(values, return_inverse=True)[1]
    found = np.zeros(len(values), np.int64)

    def has_all() -> bool:
        counts = np.zeros((folds, codes.max() + 1), np.int64)
        np.add.at(counts, (found, codes), 1)
        return bool(counts.min() > 0)

    for attempt in range(_ATTEMPTS):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + 7919 * attempt)
        for fold, (_, test) in enumerate(splitter.split(codes, codes, family)):
            found[test] = fold
        if has_all():
            return found
    names, of_unit = np.unique(family, return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        found = (generator.permutation(len(names)) % folds)[of_unit]
        if has_all():
            return found
    return None


def number_folds(family: npt.NDArray[np.str_], *, folds: int, seed: int) -> Folds | None:
    """Return the fold of each unit, folds of similar size; None with too few families.

    Parameters
    ----------
    family : np.ndarray of shape (n_units,), str
    folds, seed : int
    """
    names, of_unit, sizes = np.unique(family, return_inverse=True, return_counts=True)
    if folds < 2 or len(names) < folds:
        return None
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, of_family = np.zeros(folds, np.int64), np.zeros(len(names), np.int64)
    for name in order:
        of_family[name] = np.argmin(filled)
        filled[of_family[name]] += sizes[name]
    return of_family[of_unit]


def _families_of_classes(values: npt.NDArray[Any], family: npt.NDArray[np.str_]) -> dict[str, int]:
    return {str(name): len(np.unique(family[values == name])) for name in np.unique(values)}


def _too_few(labels: Labels, folds: int, fewer: int | None, group: str) -> ConfigError:
    """Make the error with counts; ``fewer`` folds would work."""
    most, groups = len(np.unique(labels.family)), plural(group)
    if labels.kind == "classes":
        counts = _families_of_classes(labels.values, labels.family)
        enough = min(counts.values()) >= folds
        wanted = f"{folds} or more {groups} of every class, one for each fold"
        rare = sorted(counts, key=counts.__getitem__)[:_NAMED]
        got = ", ".join(f"{name}: {counts[name]}" for name in sorted(rare))
        got += f" and {counted(len(counts) - _NAMED, 'more class')}" if len(counts) > _NAMED else ""
    else:
        units = len(labels.values)
        enough = most >= folds and units >= _SCORED * folds
        wanted = f"{_SCORED * folds} or more {plural(labels.unit)} of {folds} or more {groups}"
        got = f"{counted(units, labels.unit)} of {counted(most, group)}"
    if group == "family":
        wanted += " (a subject without a family is one)"
    if enough:
        got += f", which cannot be divided with {groups} kept together"
    step = "Tokenize more subjects" + (f", or choose --folds {fewer}." if fewer else ".")
    return ConfigError(expected("Folds", f"of {labels.target}, {folds} of them", wanted, got, step))
