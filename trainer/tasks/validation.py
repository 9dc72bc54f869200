"""A validation side for folds that have none, taken from their training side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.folds import class_folds, number_folds
from fmritok.trainer.tasks.splits import Fold, check_folds, grouping
from fmritok.trainer.tasks.units import Units

__all__ = ["hold_out", "with_validation"]

_SCORED = 3  # the correlation of two numbers is always 1 or -1


def with_validation(units: Units, folds: Sequence[Fold], *, fraction: float) -> list[Fold]:
    """Hold out a share of each training side; what the task keeps together stays together.

    Classes are balanced. Validation sides that a split gives are kept. Tested units are not
    looked at.

    Parameters
    ----------
    units : Units
    folds : sequence of Fold
    fraction : float

    Raises
    ------
    ConfigError
        If there are too few families (or sites) on a training side.
    LeakageError
        If a subject would be on two sides.
    """
    if all(fold.validation.any() for fold in folds):
        return list(folds)
    group = grouping(units, units.task.split.by)
    found = [hold_out(units, fold, group, fraction) for fold in folds]
    check_folds(units, found, families=False)
    return found


def hold_out(units: Units, fold: Fold, group: npt.NDArray[np.str_], fraction: float) -> Fold:
    """Give one fold a validation side from its training side, if it has none.

    Parameters
    ----------
    units : Units
    fold : Fold
    group : np.ndarray of shape (n_units,), str
        What stays together.
    fraction : float

    Raises
    ------
    ConfigError
        If there are too few groups on its training side.
    """
    if fold.validation.any():
        return fold
    validation = np.zeros(len(units), bool)
    validation[np.flatnonzero(fold.train)[_chosen(units, fold, group, fraction)]] = True
    return replace(fold, train=fold.train & ~validation, validation=validation)


def _chosen(
    units: Units, fold: Fold, group: npt.NDArray[np.str_], fraction: float
) -> npt.NDArray[np.bool_]:
    """Choose among the training units of a fold: classes balanced, groups kept together."""
    values, names = units.labels.values[fold.train], group[fold.train]
    seed = 1000 * fold.seed + fold.number
    of_numbers = units.task.kind == "regression"
    for parts in range(round(1 / fraction), 1, -1):
        if of_numbers:
            of_unit = number_folds(names, folds=parts, seed=seed)
        else:
            of_unit = class_folds(values, names, folds=parts, seed=seed)
        if of_unit is None:
            continue
        held_out = np.asarray(of_unit == 0)
        if held_out.sum() >= min(_SCORED, len(names) - 1) or (parts == 2 and not of_numbers):
            return held_out
    kept = {"leave-site-out": "site"}.get(units.task.split.by, units.task.split.by)
    if of_numbers:
        wanted = f"{_SCORED} or more units for validation and others to train on, grouped by {kept}"
        got = f"{counted(len(names), units.task.unit)} in {counted(len(np.unique(names)), 'group')}"
    else:
        wanted = f"units of every class in two or more groups by {kept}, one of them for validation"
        got = ", ".join(
            f"{name}: {len(np.unique(names[values == name]))}" for name in np.unique(values)
        )
    raise ConfigError(
        expected("Training side", f"of seed {fold.seed}, fold {fold.number}", wanted, got,
                 "Choose more --folds, or give a --split with a validation side.")
    )  # fmt: skip
