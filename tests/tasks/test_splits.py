"""Folds keep subjects, families or sites together; every unit is tested once for each seed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from people import a_task, people, some_units

from fmritok.trainer.errors import ConfigError, LeakageError
from fmritok.trainer.tasks.splits import check_folds, folds_of, given_fold, splits_json
from fmritok.trainer.tasks.task import SplitRule
from fmritok.trainer.tasks.units import units_of


@pytest.mark.parametrize("task", [a_task(), a_task("age", "regression"),
                                  a_task("task", "multiclass", "run")])  # fmt: skip
@pytest.mark.parametrize(
    ("by", "apart"),
    [("family", ["subject", "family"]), ("subject", ["subject"]),
     ("site", ["subject", "family", "site"]), ("leave-site-out", ["subject", "family", "site"])],
)  # fmt: skip
def test_what_is_kept_together_is_on_one_side(task, by, apart):
    units = some_units(task)
    folds = folds_of(units, SplitRule(by, 3, 2))
    groups = {"subject": units.subject, "family": units.labels.family, "site": units.site}
    assert len(folds) == (3 if by == "leave-site-out" else 6)
    for seed in {fold.seed for fold in folds}:
        tested = np.sum([fold.test for fold in folds if fold.seed == seed], axis=0)
        assert (tested == 1).all()
    for fold in folds:
        assert (fold.train ^ fold.test).all()
        for name in apart:
            assert not set(groups[name][fold.train]) & set(groups[name][fold.test])
    if by == "leave-site-out":
        assert [fold.name for fold in folds] == ["KKI", "NYU", "UCLA"]
    if by == "subject":
        both = json.loads(splits_json(units, folds))[0]["families_on_both_sides"]
        family = units.labels.family
        assert both == len(set(family[folds[0].train]) & set(family[folds[0].test])) > 0
    if by == "family":
        assert {s["families_on_both_sides"] for s in json.loads(splits_json(units, folds))} == {0}


def test_folds_that_would_leak_are_refused():
    units = some_units(a_task("task", "multiclass", "run"))
    nobody, test = np.zeros(len(units), bool), np.arange(len(units)) % 3 == 0
    sides = {"train": ~test, "validation": nobody, "test": test}
    with pytest.raises(LeakageError, match="Split by subject"):
        given_fold(units, sides, "mine")
    fold = replace(folds_of(units, SplitRule("family", 3, 1))[0], validation=test, test=nobody)
    with pytest.raises(LeakageError, match="Split by run"):
        check_folds(units, [fold], families=False)
    first = np.isin(units.subject, [f"demo/{i}" for i in range(100, 124, 2)])
    fold = replace(fold, train=first, validation=nobody, test=~first)
    check_folds(units, [fold], families=False)
    with pytest.raises(LeakageError, match="Split by family"):
        check_folds(units, [fold], families=True)


def test_too_few_sites_or_none_are_one_error():
    runs, phenotypes = people()
    with pytest.raises(ConfigError, match="5 or more sites.*got 3. Choose --folds 3, or"):
        folds_of(some_units(), SplitRule("site", 5, 1))
    for site, words in (("", "got 0 sites, and 24 units without one"), ("NYU", "got 1 site")):
        units = units_of(a_task(), runs.assign(site=site), phenotypes)
        with pytest.raises(ConfigError, match=f"a site of every unit.*{words}"):
            folds_of(units, SplitRule("leave-site-out"))
    with pytest.raises(ConfigError, match="or choose --folds 12"):
        folds_of(some_units(), SplitRule("family", 20, 1))


def test_a_split_is_written_with_its_checksums():
    units = some_units()
    folds = folds_of(units, SplitRule("family", 3, 2))
    written = json.loads(splits_json(units, folds))
    assert len({one["sha256"] for one in written}) == 6
    for fold, one in zip(folds, written, strict=True):
        assert one["test"] == units.ids[fold.test].tolist()
        assert one["sha256"] == fold.sha256(units.ids)
    moved = folds[0].test.copy()
    moved[np.flatnonzero(moved)[0]] = False
    assert replace(folds[0], test=moved).sha256(units.ids) != written[0]["sha256"]
