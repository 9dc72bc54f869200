"""Nothing of the tested units is used in training, and what is found is what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from people import a_task, people, some_units

from fmritok.trainer.evaluation import crossval, heads
from fmritok.trainer.evaluation.crossval import cross_validate, retrieve
from fmritok.trainer.evaluation.unit_features import Columns, Edges, Fixed, Residual
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule
from fmritok.trainer.tasks.units import units_of


def _random(units, width=12, seed=0):
    return np.random.default_rng(seed).standard_normal((len(units), width))


def _features(units, values):
    """All that is fitted in folds, one on another: completion, regression of confounds, scaling."""
    missing = values.copy()
    missing[::5, 2] = np.nan
    confounds = Columns(pd.DataFrame({"site": units.site, "x": values[:, 1]}))
    return Residual(Edges(missing), confounds)


@pytest.mark.parametrize("task", [a_task(), a_task("age", "regression")])
@pytest.mark.parametrize("by", ["family", "site", "leave-site-out"])
def test_tested_units_change_nothing_that_is_fitted(task, by):
    """Features of one tested unit change the scores of no other; labels those of none."""
    units = some_units(task)
    folds = folds_of(units, SplitRule(by, 3, 1))
    values = _random(units)
    inner = "site" if by == "leave-site-out" else by
    before = cross_validate(units, folds, _features(units, values), by=inner)
    for fold, prediction in zip(folds, before, strict=True):
        changed = values.copy()
        first = prediction.test[0]
        changed[first] = 1e3
        after = cross_validate(units, [fold], _features(units, changed), by=inner)[0]
        np.testing.assert_array_equal(after.scores[1:], prediction.scores[1:])
        own = units.labels.values[fold.test].copy()
        units.labels.values[fold.test] = 2 * own if own.dtype.kind == "f" else "M"
        after = cross_validate(units, [fold], _features(units, values), by=inner)[0]
        np.testing.assert_array_equal(after.scores, prediction.scores)
        units.labels.values[fold.test] = own


def test_a_training_unit_does_change_them():
    units = some_units()
    folds = folds_of(units, SplitRule("family", 3, 1))
    values = _random(units)
    before = cross_validate(units, folds[:1], _features(units, values))[0]
    values[np.flatnonzero(folds[0].train)[0]] += 3
    after = cross_validate(units, folds[:1], _features(units, values))[0]
    assert np.abs(after.scores - before.scores).max() > 1e-6


@pytest.mark.parametrize("task", [a_task(), a_task("age", "regression")])
def test_the_penalty_is_chosen_among_training_units_and_keeps_groups_together(task, monkeypatch):
    units = some_units(task)
    (fold, *_) = folds_of(units, SplitRule("site", 3, 1))
    seen = []
    name = "ridge" if task.kind == "regression" else "choose_strength"
    whole = getattr(heads, name)

    def spy(x, y, group, *more):
        seen.append((x, group))
        return whole(x, y, group, *more)

    monkeypatch.setattr(heads, name, spy)
    values = _random(units)
    cross_validate(units, [fold], Fixed(values, units.ids), by="site")
    ((x, group),) = seen
    np.testing.assert_array_equal(x, values[fold.train])
    assert group.tolist() == units.site[fold.train].tolist()


def test_planted_effects_are_found_and_permuted_labels_are_not():
    units = some_units(n_subjects=60)
    folds = folds_of(units, SplitRule("family", 5, 1))
    values = _random(units, 6)
    values[:, 3] += 3.0 * units.codes
    found = cross_validate(units, folds, Fixed(values, units.ids), permutations=10)
    assert np.mean([one.metrics["auroc"] for one in found]) > 0.9
    chance = np.mean([one.permuted["auroc"] for one in found])
    assert 0.35 < chance < 0.65
    ages = some_units(a_task("age", "regression"), 60)
    values[:, 3] = ages.labels.values / 10 + 0.1 * values[:, 2]
    found = cross_validate(ages, folds, Fixed(values, ages.ids), permutations=10)
    assert np.mean([one.metrics["r"] for one in found]) > 0.9
    assert found[0].metrics["mae_sd"] == pytest.approx(found[0].metrics["mae"] / found[0].sd)
    assert abs(np.mean([one.permuted["r"] for one in found])) < 0.3


def test_permuted_labels_are_scored_against_themselves():
    """A head that knows the labels of each column, permuted or not, is always right."""
    units = some_units()

    def knowing(problem, features):
        return [np.eye(2)[column] for column in problem.columns[problem.test].T]

    folds = folds_of(units, SplitRule("family", 3, 1))
    for one in cross_validate(units, folds, "none", head=knowing, permutations=5):
        assert one.metrics["acc"] == 1
        assert one.permuted["acc"].tolist() == [1] * 5


def test_permuted_labels_stay_with_their_family():
    ages = some_units(a_task("age", "regression"))
    family = ages.labels.family
    columns = crossval._columns(ages, 20, 0)
    assert (columns[:, 0] == ages.labels.values).all()
    of_families = {tuple(sorted(ages.labels.values[family == name])) for name in set(family)}
    for permuted in columns[:, 1:].T:
        assert (permuted != ages.labels.values).any()
        found = {tuple(sorted(permuted[family == name])) for name in set(family)}
        assert found == of_families


def test_a_confound_that_makes_the_label_is_gone_once_it_is_regressed_out():
    runs, phenotypes = people(60)
    phenotypes["sex"] = np.where(np.arange(60) // 2 % 3 == 0, "F", "M")  # one site is F alone
    units = units_of(a_task(), runs, phenotypes)
    folds = folds_of(units, SplitRule("family", 5, 1))
    values = _random(units, 6)
    values[:, 0] += 4.0 * (units.site == "NYU")
    features = Fixed(values, units.ids)
    plain = cross_validate(units, folds, features)
    less = cross_validate(
        units, folds, Residual(features, Columns(pd.DataFrame({"site": units.site})))
    )
    assert np.mean([one.metrics["auroc"] for one in plain]) > 0.95
    assert np.mean([one.metrics["auroc"] for one in less]) < 0.75


def test_without_features_the_most_frequent_class_or_the_mean_is_predicted():
    units = some_units()
    units.labels.values[1:12] = "M"
    found = cross_validate(units, folds_of(units, SplitRule("family", 2, 1)), None, permutations=3)
    for one in found:
        share = np.mean(units.codes[one.fold.train])
        np.testing.assert_allclose(one.scores, np.tile([1 - share, share], (len(one.test), 1)))
        assert one.metrics["auroc"] == 0.5
    ages = some_units(a_task("age", "regression"))
    for one in cross_validate(ages, folds_of(ages, SplitRule("family", 3, 1)), None):
        np.testing.assert_allclose(one.scores, ages.labels.values[one.fold.train].mean())
        assert one.sd == pytest.approx(ages.labels.values[one.fold.train].std())
        assert one.metrics["r"] == 0


def test_a_fold_of_one_label_has_no_score_and_others_have():
    ages = some_units(a_task("age", "regression"))
    folds = folds_of(ages, SplitRule("leave-site-out"))
    ages.labels.values[folds[1].test] = 30.0
    found = cross_validate(ages, folds, Fixed(_random(ages), ages.ids), by="site")
    assert [np.isnan(one.metrics["r"]) for one in found] == [False, True, False]
    row = crossval.Row("x", found)
    mean = row.metrics(ages, np.ones((1, len(ages))))["r"][0]
    assert mean == pytest.approx((found[0].metrics["r"] + found[2].metrics["r"]) / 2)


def test_runs_of_one_subject_find_each_other():
    units = some_units(a_task("subject", "retrieval", "run"))
    subject = np.unique(units.subject, return_inverse=True)[1]
    own = _random(units, 30)[:24][subject]
    ((found,), nearest) = retrieve(units, own + 0.3 * _random(units, 30, 1), permutations=5)
    assert found.metrics["top1"] == found.metrics["map"] == 1
    assert nearest.tolist() == units.labels.values.tolist()
    assert found.permuted["top1"].max() < 0.3
    ((noise,), _) = retrieve(units, _random(units, 30, 2))
    assert noise.metrics["top1"] < 0.3
