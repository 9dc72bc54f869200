"""Divide the units of a task: into folds, by a given file, or as a pretraining divided them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.data.split import Split, check_no_leakage
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.folds import fold_splits
from fmritok.trainer.tasks.task import SplitRule
from fmritok.trainer.tasks.units import Units

__all__ = ["Fold", "check_folds", "folds_of", "given_fold", "grouping", "splits_json"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """One division of units.

    Attributes
    ----------
    seed, number : int
    name : str
        Such as the site that is left out.
    train, validation, test : np.ndarray of shape (n_units,), bool
        A unit may be on no side; validation may be empty.
    """

    seed: int
    number: int
    name: str
    train: Mask
    validation: Mask
    test: Mask

    def sides(self, ids: npt.NDArray[np.str_]) -> dict[str, list[str]]:
        """Return the ids of each side's units."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: ids[side].tolist() for name, side in sides.items()}

    def sha256(self, ids: npt.NDArray[np.str_]) -> str:
        """Return the checksum of who is on which side."""
        text = json.dumps(self.sides(ids), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def grouping(units: Units, by: str) -> npt.NDArray[np.str_]:
    """Return the group of each unit that a division keeps together.

    Raises
    ------
    ConfigError
        If sites are to be kept together, and units have none, or all the same.
    """
    if by == "subject":
        return units.subject
    if by == "family":
        return units.labels.family
    unknown = units.site == ""
    sites = np.unique(units.site[~unknown])
    if unknown.any() or len(sites) < 2:
        got = counted(len(sites), "site")
        got += f", and {counted(unknown.sum(), 'unit')} without one" if unknown.any() else ""
        raise ConfigError(
            expected("Split", f"by {by} of task {units.task.name}",
                     "a site of every unit, and two or more", got,
                     "Split by family, or tokenize with tables that name the sites.")
        )  # fmt: skip
    return units.site


def folds_of(units: Units, rule: SplitRule) -> list[Fold]:
    """Divide units into folds; every unit is tested once for each seed.

    Leaving a site out leaves nothing to draw, so it is done once, whatever the seeds.

    Raises
    ------
    ConfigError
        If there are too few units for the folds.
    LeakageError
        If a subject or a family would be on both sides.
    """
    group = grouping(units, rule.by)
    tests: list[tuple[int, int, str, Mask]] = []
    if rule.by == "leave-site-out":
        tests = [(0, i, str(site), group == site) for i, site in enumerate(np.unique(group))]
    else:
        if rule.by == "site" and len(np.unique(group)) < rule.folds:
            raise ConfigError(
                expected("Split", f"by site of task {units.task.name}",
                         f"{rule.folds} or more sites, one for each fold", len(np.unique(group)),
                         f"Choose --folds {len(np.unique(group))}, or --by leave-site-out.")
            )  # fmt: skip
        labels = replace(units.labels, family=group)
        for seed in range(rule.seeds):
            sides = fold_splits(labels, folds=rule.folds, seed=seed, group=rule.by)
            tests += [(seed, number, "", test) for number, test in enumerate(sides)]
    nobody = np.zeros(len(units), bool)
    folds = [Fold(seed, number, name, ~test, nobody, test) for seed, number, name, test in tests]
    check_folds(units, folds, families=rule.by != "subject")
    return folds


def given_fold(units: Units, sides: dict[str, Mask], name: str) -> Fold:
    """Make the one fold of a given division.

    Raises
    ------
    ConfigError
        If nobody is trained on or tested, or the training side has one label only.
    LeakageError
        If a subject is on two sides.
    """
    fold = Fold(0, 0, name, sides["train"], sides["validation"], sides["test"])
    for side in ("train", "test"):
        if not sides[side].any():
            raise ConfigError(
                expected("Split", name, f"a {side} side of units of task {units.task.name}",
                         "none", "Give a split of these subjects.")
            )  # fmt: skip
    labels = np.unique(units.labels.values[fold.train | fold.validation])
    if len(labels) < 2:
        raise ConfigError(
            expected("Split", name, "two or more labels on its training side",
                     ", ".join(map(str, labels)), "Give another split.")
        )  # fmt: skip
    check_folds(units, [fold], families=False)
    return fold


def check_folds(units: Units, folds: Sequence[Fold], *, families: bool) -> None:
    """Refuse folds with a subject on two sides, or a family if families are kept together.

    Raises
    ------
    LeakageError
    """
    used = units.labels.of_row >= 0
    of_row = units.labels.of_row[used]
    runs = units.runs[used]
    runs = runs if families else runs.assign(family="")
    ids = runs["run_id"].to_numpy(str)
    for fold in folds:
        pairs = ((fold.train, fold.validation), (fold.train | fold.validation, fold.test))
        for one, other in pairs:
            sides = (tuple(np.unique(ids[side[of_row]]).tolist()) for side in (one, other))
            check_no_leakage(runs, Split(*sides))


def splits_json(units: Units, folds: Sequence[Fold]) -> str:
    """Write who is on which side of each fold, with the checksum of each."""
    family = units.labels.family
    tree: list[dict[str, Any]] = []
    for fold in folds:
        learnt = fold.train | fold.validation
        tree.append(
            {
                "seed": fold.seed,
                "fold": fold.number,
                "name": fold.name,
                "sha256": fold.sha256(units.ids),
                "families_on_both_sides": len(set(family[learnt]) & set(family[fold.test])),
                **fold.sides(units.ids),
            }
        )
    return json.dumps(tree, indent=1)
