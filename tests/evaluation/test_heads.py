"""Heads equal scikit-learn's models, choose among training units, and find what is planted."""

from __future__ import annotations

import numpy as np
import pytest
from people import a_task, people, some_units
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation import heads
from fmritok.trainer.evaluation.crossval import cross_validate
from fmritok.trainer.evaluation.heads import Problem, linear, neighbours, published_logistic
from fmritok.trainer.evaluation.linear import PUBLISHED, choose_strength
from fmritok.trainer.evaluation.unit_features import Fixed
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule
from fmritok.trainer.tasks.units import units_of

CLASSES, NUMBERS = a_task(), a_task("age", "regression")
ALL = [(linear, CLASSES), (linear, NUMBERS), (published_logistic, CLASSES), (neighbours, CLASSES),
       (neighbours, NUMBERS)]  # fmt: skip


def _problem(units, fold):
    values = units.labels.values if units.task.kind == "regression" else units.codes
    return Problem(units, fold, values[:, None], units.labels.family)


def _planted(units, strength=2.0, width=8, seed=0):
    x = np.random.default_rng(seed).standard_normal((len(units), width))
    values = units.labels.values if units.task.kind == "regression" else units.codes
    x[:, 2] += strength * (values - values.mean()) / values.std()
    return x


@pytest.mark.parametrize(("head", "task"), ALL)
def test_what_is_planted_is_found_and_nothing_else(head, task):
    units = some_units(task, 60)
    folds = folds_of(units, SplitRule("family", 4, 1))
    metric = "auroc" if task is CLASSES else "r"
    for strength in (3.0, 0.0):
        features = Fixed(_planted(units, strength), units.ids)
        found = cross_validate(units, folds, features, head=head, permutations=6)
        mean = np.mean([one.metrics[metric] for one in found])
        chance = np.mean([one.permuted[metric] for one in found])
        level = 0.5 if task is CLASSES else 0.0
        assert abs(chance - level) < 0.2
        assert mean > (0.85 if task is CLASSES else 0.75) if strength else abs(mean - level) < 0.3


@pytest.mark.parametrize(("head", "task"), ALL)
def test_every_column_of_labels_is_learned_from_itself(head, task):
    """Real labels in one feature, permuted ones in another."""
    units = some_units(task, 60)
    (fold, *_) = folds_of(units, SplitRule("family", 4, 1))
    problem = _problem(units, fold)
    permuted = np.random.default_rng(5).permutation(problem.columns, axis=0)
    problem = Problem(units, fold, np.hstack([problem.columns, permuted]), problem.group)
    x = _planted(units, 4.0)
    x[:, 3] += 4.0 * (permuted[:, 0] - permuted.mean()) / permuted.std()
    scores = head(problem, Fixed(x, units.ids))
    truth = problem.columns[problem.test].T
    found = [[abs(np.corrcoef(s[:, -1], y)[0, 1]) for y in truth] for s in scores]
    for column in range(2):
        assert found[column][column] > 0.6
        assert found[column][column] > found[column][1 - column] + 0.2


@pytest.mark.parametrize(("head", "task"), ALL)
def test_tested_units_change_nothing_that_is_fitted(head, task):
    """Scaling, the penalty, the neighbours: of the training side alone."""
    units = some_units(task)
    (fold, *_) = folds_of(units, SplitRule("family", 3, 1))
    values = _planted(units, 1.0)
    (before,) = head(_problem(units, fold), Fixed(values, units.ids))
    changed = values.copy()
    changed[np.flatnonzero(fold.test)[0]] = 1e3
    (after,) = head(_problem(units, fold), Fixed(changed, units.ids))
    np.testing.assert_array_equal(after[1:], before[1:])
    own = units.labels.values[fold.test].copy()
    units.labels.values[fold.test] = 2 * own if own.dtype.kind == "f" else "M"
    (after,) = head(_problem(units, fold), Fixed(values, units.ids))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("task", [CLASSES, NUMBERS])
def test_inner_folds_keep_relatives_together(task, monkeypatch):
    """Siblings are alike: with them on both sides, one neighbour would be best."""
    units = some_units(task, 40)
    (fold, *_) = folds_of(units, SplitRule("family", 4, 1))
    problem, seen = _problem(units, fold), []
    whole = heads._nearest
    train = problem.group[problem.train]

    def spy(x, x_test):
        seen.append((len(x), len(x_test)))
        return whole(x, x_test)

    monkeypatch.setattr(heads, "_nearest", spy)
    neighbours(problem, Fixed(_planted(units), units.ids))
    labels = problem.columns[problem.train, 0]
    inner = heads._inner_folds(labels, train, of_classes=task is CLASSES)
    for number in range(3):
        assert not set(train[inner == number]) & set(train[inner != number])
        assert seen[number] == ((inner != number).sum(), (inner == number).sum())
    assert seen[3] == (len(problem.train), len(problem.test))


@pytest.mark.parametrize("task", [CLASSES, NUMBERS])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_are_those_of_scikit_learn(task, k, monkeypatch):
    monkeypatch.setattr(heads, "_NEIGHBOURS", (k,))
    monkeypatch.setattr(heads, "_inner_folds", lambda *_, **__: np.zeros(16, np.int64))
    monkeypatch.setattr(heads, "_NEIGHBOURS", (k,))
    units = some_units(task)
    (fold, *_) = folds_of(units, SplitRule("family", 3, 1))
    problem, x = _problem(units, fold), _planted(units)
    monkeypatch.setattr(heads, "_inner_folds", lambda y, *_, **__: np.arange(len(y)) % 2)
    (found,) = neighbours(problem, Fixed(x, units.ids))
    scaler = StandardScaler().fit(x[problem.train])
    kind = KNeighborsClassifier if task is CLASSES else KNeighborsRegressor
    model = kind(k, metric="cosine", algorithm="brute")
    y = problem.columns[problem.train, 0]
    model.fit(scaler.transform(x[problem.train]), y)
    x_test = scaler.transform(x[problem.test])
    wanted = model.predict_proba(x_test) if task is CLASSES else model.predict(x_test)[:, None]
    np.testing.assert_allclose(found, wanted)


def test_the_published_logistic_regression_is_scikit_learns_with_its_penalty():
    units = some_units(CLASSES, 60)
    (fold, *_) = folds_of(units, SplitRule("family", 3, 1))
    problem, x = _problem(units, fold), _planted(units, 0.7)
    (found,) = published_logistic(problem, Fixed(x, units.ids))
    y = problem.columns[problem.train, 0]
    strength = choose_strength(x[problem.train], y, problem.group[problem.train], 2, PUBLISHED)
    assert strength in np.logspace(-4, 4, 10)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8, max_iter=9999))
    wanted = model.fit(x[problem.train], y).predict_proba(x[problem.test])
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_numbers_have_no_logistic_regression():
    units = some_units(NUMBERS)
    (fold, *_) = folds_of(units, SplitRule("family", 3, 1))
    with pytest.raises(ConfigError, match=r"Choose --head linear"):
        published_logistic(_problem(units, fold), Fixed(_planted(units), units.ids))


@pytest.mark.parametrize("kind", ["regression", pytest.param("binary", marks=pytest.mark.slow)])
def test_noise_scores_what_permuted_labels_score(kind):
    """The mean over many cohorts without an effect is the printed chance, within its error."""
    generator = np.random.default_rng(0)
    figure, level = ("r", 0.0) if kind == "regression" else ("auroc", 0.5)
    found, chance = [], []
    for _ in range(40 if kind == "regression" else 8):
        runs, phenotypes = people(20)
        phenotypes["age"] = generator.normal(30, 5, 20)
        runs["family"] = ""
        units = units_of(a_task("age" if kind == "regression" else "sex", kind), runs, phenotypes)
        features = Fixed(generator.standard_normal((20, 12)), units.ids)
        folds = folds_of(units, SplitRule("family", 5, 1))
        scored = cross_validate(units, folds, features, permutations=2)
        # A fold whose tested units are of one class has no AUROC.
        found.append(np.nanmean([one.metrics[figure] for one in scored]))
        chance.append(np.nanmean([one.permuted[figure] for one in scored]))
    for values in (found, chance):
        assert abs(np.mean(values) - level) < 2.5 * np.std(values) / len(values) ** 0.5
    error = (np.var(found) + np.var(chance)) ** 0.5 / len(found) ** 0.5
    assert abs(np.mean(found) - np.mean(chance)) < 2.5 * error
