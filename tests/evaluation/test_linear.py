"""Linear models from one decomposition equal scikit-learn's; strengths are chosen by families."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmritok.trainer.evaluation import linear
from fmritok.trainer.evaluation.linear import Rotated, choose_strength, logistic, ridge

SHAPES = [(40, 7), (40, 90), (40, 40)]


def _features(n, p):
    x = np.random.default_rng(n + p).standard_normal((n, p)) * np.linspace(0.1, 9, p) + 3
    x[:, 1] = 0.7  # constant: says nothing
    return x


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_a_rotation_changes_no_prediction(n, p, monkeypatch):
    x, x_test = _features(n, p), _features(11, p)
    generator = np.random.default_rng(0)
    y = x[:, [0]] + generator.standard_normal((n, 3))
    family = np.arange(n).astype(str)
    monkeypatch.setattr(linear, "_PENALTIES", np.array([30.0]))
    wanted = make_pipeline(StandardScaler(), Ridge(30 * p / 100)).fit(x, y).predict(x_test)
    np.testing.assert_allclose(ridge(x, y, family, x_test), wanted, rtol=1e-6, atol=1e-6)
    codes = (y[:, 0] > np.median(y[:, 0])).astype(int) + (y[:, 1] > 4)
    rotated = Rotated(x)
    assert (Rotated(np.ones((5, 3))).train == np.zeros((5, 0))).all()
    for classes in (codes, np.minimum(codes, 1)):
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=9999, tol=1e-8)
        model = make_pipeline(StandardScaler(), model).fit(x, classes)
        found = logistic(rotated, classes, rotated.of(x_test), 0.1, classes.max() + 1)
        np.testing.assert_allclose(found, model.predict_proba(x_test), atol=2e-3)


def test_each_column_has_the_penalty_that_predicts_it_best():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((90, 30))
    y = np.column_stack([x @ generator.standard_normal(30), generator.standard_normal(90)])
    x_test = generator.standard_normal((50, 30))
    family = np.arange(90).astype(str)
    found = ridge(x, y, family, x_test)
    for i in range(2):
        alone = ridge(x, y[:, [i]], family, x_test)
        np.testing.assert_allclose(found[:, [i]], alone, atol=1e-9)
    assert found[:, 0].std() > 3  # hardly shrunk
    assert found[:, 1].std() < 0.3  # nearly the mean


def test_strengths_are_chosen_with_relatives_on_one_side():
    """Twins have the same features and labels, which have nothing to do with each other."""
    generator = np.random.default_rng(0)
    x = np.repeat(generator.standard_normal((60, 200)), 2, axis=0)
    y = np.repeat(generator.standard_normal(60), 2)[:, None]
    x_test = generator.standard_normal((50, 200))
    twins, strangers = np.repeat(np.arange(60), 2).astype(str), np.arange(120).astype(str)
    assert ridge(x, y, twins, x_test).std() < 0.3 * ridge(x, y, strangers, x_test).std()
    classes = (y[:, 0] > 0).astype(int)
    assert choose_strength(x, classes, twins, 2) < choose_strength(x, classes, strangers, 2)


def test_inner_folds_scale_features_by_their_own_training_units(monkeypatch):
    """No decomposition of the inner folds has the units that a penalty is scored on."""
    sizes, x = [], _features(30, 7)

    class Counted(Rotated):
        def __init__(self, x):
            sizes.append(len(x))
            super().__init__(x)

    monkeypatch.setattr(linear, "Rotated", Counted)
    family = np.arange(30).astype(str)
    ridge(x, np.arange(30.0)[:, None], family, x)
    assert sizes == [20, 20, 20, 30]
    sizes.clear()
    choose_strength(x, np.arange(30) % 2, family, 2)
    assert sizes == [20, 20, 20]


def test_too_few_families_for_a_choice_still_give_a_prediction():
    x = _features(4, 9)
    found = ridge(x, np.arange(4.0)[:, None], np.array(["a"] * 4), x)
    assert np.isfinite(found).all()
    assert choose_strength(x, np.array([0, 0, 1, 1]), np.array(["a"] * 4), 2) == 1e-3
    rotated = Rotated(x)
    one = logistic(rotated, np.array([1, 1, 1, 1]), rotated.of(x), 1.0, 3)
    assert one.tolist() == [[0, 1, 0]] * 4
