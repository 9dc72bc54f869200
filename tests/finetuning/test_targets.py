"""Labels are standardised and weighed by the training side alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from people import a_task, some_units

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.finetuning.config import LossConfig
from fmritok.trainer.finetuning.targets import Targets
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule
from fmritok.trainer.tasks.validation import with_validation

AGE = a_task("age", "regression")


def _folds(units, by="family", folds=3):
    return folds_of(units, SplitRule(by, folds, 1))


def test_numbers_are_standardised_by_the_training_side_and_come_back():
    units = some_units(AGE)
    fold = with_validation(units, _folds(units), fraction=0.25)[0]
    targets = Targets(units, fold, LossConfig())
    own = units.labels.values[fold.train]
    assert (targets.mean, targets.sd) == (own.mean(), own.std())
    wanted = targets.of(torch.arange(len(units)))
    np.testing.assert_allclose(wanted[fold.train].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(targets.scores(wanted.double().numpy())[:, 0], units.labels.values,
                               rtol=1e-6)  # fmt: skip
    plain = Targets(units, fold, LossConfig(standardize=False))
    assert (plain.mean, plain.sd) == (0, 1)


@pytest.mark.parametrize("task", [AGE, a_task()])
def test_labels_of_validation_and_test_change_nothing_that_is_trained_on(task):
    units = some_units(task)
    fold = with_validation(units, _folds(units), fraction=0.25)[0]
    before = Targets(units, fold, LossConfig())
    others = ~fold.train
    units.labels.values[others] = "M" if task is not AGE else 1e4
    after = Targets(units, fold, LossConfig())
    chosen = torch.from_numpy(np.flatnonzero(fold.train))
    torch.testing.assert_close(after.of(chosen), before.of(chosen))
    torch.testing.assert_close(after.class_weights, before.class_weights)
    units.labels.values[np.flatnonzero(fold.train)[0]] = 1e4 if task is AGE else "F"
    changed = Targets(units, fold, LossConfig())
    rest = chosen[1:]
    if task is AGE:
        assert not torch.equal(changed.of(rest), before.of(rest))
    else:
        assert not torch.equal(changed.class_weights, before.class_weights)


def test_class_weights_make_up_for_rare_classes():
    units = some_units()
    (fold, *_) = _folds(units)
    units.labels.values[np.flatnonzero(fold.train)[:11]] = "M"
    codes = units.codes[fold.train]
    weights = Targets(units, fold, LossConfig()).class_weights
    shares = np.bincount(codes) * weights.numpy()
    np.testing.assert_allclose(shares, len(codes) / 2, rtol=1e-6)
    assert Targets(units, fold, LossConfig(class_weights=False)).class_weights is None


def test_losses_are_those_of_torch():
    units = some_units()
    targets = Targets(units, _folds(units)[0], LossConfig())
    outputs, wanted = torch.randn(5, 2), targets.of(torch.arange(5))
    found = torch.nn.functional.cross_entropy(
        outputs, torch.from_numpy(units.codes[:5]), weight=targets.class_weights, reduction="none"
    )
    torch.testing.assert_close(targets.losses(outputs, wanted), found)
    ages = some_units(AGE)
    for name, power in (("mse", 2), ("l1", 1)):
        targets = Targets(ages, _folds(ages)[0], LossConfig(numbers=name))
        found = (outputs[:, :1] - targets.of(torch.arange(5)))[:, 0].abs() ** power
        torch.testing.assert_close(
            targets.losses(outputs[:, :1], targets.of(torch.arange(5))), found
        )


def test_one_label_in_all_training_units_is_refused():
    ages, units = some_units(AGE), some_units()
    for task_units, value in ((ages, 30.0), (units, "M")):
        fold = _folds(task_units)[1]
        task_units.labels.values[fold.train] = value
        with pytest.raises(ConfigError, match=r"Training side of seed 0, fold 1.*one in all of"):
            Targets(task_units, fold, LossConfig())
