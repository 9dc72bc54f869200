"""Validation sides come from the training side, and keep together what the task does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from people import a_task, some_units

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.splits import folds_of, given_fold
from fmritok.trainer.tasks.task import SplitRule
from fmritok.trainer.tasks.validation import with_validation

AGE = a_task("age", "regression")


@pytest.mark.parametrize("by", ["family", "subject", "site", "leave-site-out"])
@pytest.mark.parametrize("task", [AGE, a_task(), a_task(unit="run")])
def test_validation_is_a_part_of_the_training_side_and_keeps_groups_together(by, task):
    units = some_units(replace(task, split=SplitRule(by, 3, 1)), 36)
    before = folds_of(units, SplitRule(by, 3, 1))
    after = with_validation(units, before, fraction=0.25)
    group = {"family": units.labels.family, "subject": units.subject}.get(by, units.site)
    for old, new in zip(before, after, strict=True):
        assert (new.test == old.test).all()
        assert (new.train | new.validation == old.train).all()
        assert new.validation.any()
        assert not (new.train & new.validation).any()
        assert not set(group[new.train]) & set(group[new.validation])
        if task is not AGE:
            assert len(set(units.labels.values[new.validation])) == 2
    assert not np.array_equal(after[0].validation, after[1].validation)


def test_two_subjects_of_each_class_are_enough():
    units = some_units(a_task(split=SplitRule("subject")), n_subjects=8)
    sides = {"train": np.arange(8) < 4, "validation": np.zeros(8, bool), "test": np.arange(8) >= 4}
    (fold,) = with_validation(units, [given_fold(units, sides, "mine")], fraction=0.2)
    for side in (fold.train, fold.validation):
        assert sorted(units.labels.values[side]) == ["F", "M"]


def test_a_given_validation_side_is_kept():
    units = some_units()
    number = np.arange(len(units))
    sides = {"train": number < 12, "validation": (number >= 12) & (number < 18),
             "test": number >= 18}  # fmt: skip
    (fold,) = with_validation(units, [given_fold(units, sides, "mine")], fraction=0.5)
    assert (fold.validation == sides["validation"]).all()


def test_too_few_families_for_a_validation_side_are_one_error():
    units = some_units(n_subjects=24)
    number = np.arange(len(units))
    sides = {"train": number < 2, "validation": number < 0, "test": number >= 2}
    match = "units of every class in two or more groups by family, .* got F: 1, M: 1"
    with pytest.raises(ConfigError, match=match):
        with_validation(units, [given_fold(units, sides, "mine")], fraction=0.2)
