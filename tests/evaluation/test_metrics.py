"""Every metric equals scikit-learn's, on the units and on units that are drawn repeatedly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from fmritok.trainer.evaluation.metrics import (
    METRICS,
    class_metrics,
    mean_metrics,
    number_metrics,
    retrieval_of_queries,
)
from fmritok.trainer.evaluation.statistics.intervals import bootstrap, drawn_counts, interval


def _weightings(n_units, generator):
    """All units once, and draws with replacement; the last draw lacks most units."""
    return np.stack([np.ones(n_units), *generator.multinomial(n_units, [1 / n_units] * n_units, 3)])


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_of_classes_equal_scikit_learns(n_classes, ties, rng):
    truth = rng.integers(n_classes, size=90)
    scores = rng.random((90, n_classes)) + 0.4 * (truth[:, None] == np.arange(n_classes))
    scores = np.round(scores, 1) if ties else scores
    scores /= scores.sum(1, keepdims=True)
    weights = _weightings(90, rng)
    found = class_metrics(truth, scores, weights)
    kinds = ("binary", "multiclass") if n_classes == 2 else ("multiclass",)
    assert set(found) == {name for kind in kinds for name in METRICS[kind]}
    for b, counts in enumerate(weights.astype(int)):
        y, s = np.repeat(truth, counts), np.repeat(scores, counts, axis=0)
        p = s.argmax(1)
        wanted = {
            "acc": theirs.accuracy_score(y, p),
            "balanced_accuracy": theirs.balanced_accuracy_score(y, p),
            "macro_f1": theirs.f1_score(y, p, average="macro"),
        }
        if n_classes == 2:
            wanted["auroc"] = theirs.roc_auc_score(y, s[:, 1])
            wanted["sensitivity"] = theirs.recall_score(y, p)
            wanted["specificity"] = theirs.recall_score(y, p, pos_label=0)
        of_both = s if n_classes > 2 else s[:, 1]
        wanted["auroc_ovr"] = theirs.roc_auc_score(y, of_both, multi_class="ovr")
        assert {name: values[b] for name, values in found.items()} == pytest.approx(wanted)


@pytest.mark.parametrize("decimals", [6, 0])
def test_metrics_of_numbers_equal_scikit_learns(decimals, rng):
    truth = np.round(rng.normal(50, 9, 80), decimals)
    predicted = np.round(0.5 * truth + rng.normal(20, 6, 80), decimals)
    weights = _weightings(80, rng)
    found = number_metrics(truth, predicted, weights, sd=9.0)
    assert tuple(found) == METRICS["regression"]
    for b, counts in enumerate(weights.astype(int)):
        y, p = np.repeat(truth, counts), np.repeat(predicted, counts)
        mae, mse = theirs.mean_absolute_error(y, p), theirs.mean_squared_error(y, p)
        wanted = {"mae": mae, "mse": mse, "r2": theirs.r2_score(y, p), "mae_sd": mae / 9,
                  "mse_sd": mse / 81, "r": stats.pearsonr(y, p).statistic,
                  "spearman": stats.spearmanr(y, p).statistic}  # fmt: skip
        assert {name: values[b] for name, values in found.items()} == pytest.approx(wanted)


def test_retrieval_equals_scikit_learns(rng):
    identity = rng.permutation(np.repeat(np.arange(12), [2, 3] * 6))
    similarity = rng.standard_normal((30, 30)) + (identity[:, None] == identity)
    found = retrieval_of_queries(similarity, identity)
    weights = _weightings(30, rng)
    means = mean_metrics(found, weights)
    for query in range(30):
        others = np.arange(30) != query
        relevant, score = identity[others] == identity[query], similarity[query, others]
        wanted = theirs.average_precision_score(relevant, score)
        assert found["map"][query] == pytest.approx(wanted)
        assert found["top1"][query] == relevant[score.argmax()]
    for name, values in found.items():
        assert means[name] == pytest.approx((weights * values).sum(1) / 30)


def test_what_cannot_be_computed_is_nan_and_a_constant_prediction_is_at_chance():
    one = class_metrics(np.zeros(4, int), np.tile([0.7, 0.3], (4, 1)))
    assert np.isnan(one["auroc"][0])
    assert np.isnan(one["sensitivity"][0])
    assert one["specificity"][0] == one["acc"][0] == 1
    dummy = class_metrics(np.array([0, 0, 1, 1]), np.tile([0.5, 0.5], (4, 1)))
    assert dummy["auroc"][0] == dummy["balanced_accuracy"][0] == 0.5
    constant = number_metrics(np.full(5, 30.1), np.arange(5.0))
    assert all(np.isnan(constant[name][0]) for name in ("r", "spearman", "r2"))
    mean = number_metrics(np.arange(5.0) + 1e6, np.full(5, 1e6 + 0.1))
    assert mean["r"][0] == mean["spearman"][0] == 0


def test_intervals_hold_the_truth_about_as_often_as_they_say(rng):
    """The mean of 40 numbers, 200 times: 95 % of the intervals hold it, within their error."""
    held = 0
    for seed in range(200):
        x = rng.standard_normal(40)
        counts = drawn_counts(np.arange(40), draws=200, seed=seed)
        low, high = interval(bootstrap(lambda w, x=x: mean_metrics({"m": x}, w), counts)["m"])
        held += low < 0 < high
    assert 178 <= held <= 198


def test_units_of_a_family_are_drawn_together():
    family = np.array(["a", "b", "a", "c", "b", "a"])
    counts = drawn_counts(family, draws=50, seed=1)
    for name in "abc":
        assert (np.ptp(counts[:, family == name], axis=1) == 0).all()
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()
    assert len(np.unique(counts, axis=0)) > 5
    assert (drawn_counts(family, draws=50, seed=1) == counts).all()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_metrics_of_classes_equal_torchmetrics(n_classes, rng):
    import torch
    from torchmetrics.functional import classification as tm

    truth = rng.integers(n_classes, size=120)
    scores = rng.random((120, n_classes)) + 0.4 * (truth[:, None] == np.arange(n_classes))
    scores /= scores.sum(1, keepdims=True)
    found = {name: float(values[0]) for name, values in class_metrics(truth, scores).items()}
    y, s = torch.from_numpy(truth), torch.from_numpy(scores)
    wanted = {
        "acc": tm.multiclass_accuracy(s, y, n_classes, average="micro"),
        "balanced_accuracy": tm.multiclass_accuracy(s, y, n_classes, average="macro"),
        "macro_f1": tm.multiclass_f1_score(s, y, n_classes, average="macro"),
        "auroc_ovr": tm.multiclass_auroc(s, y, n_classes, average="macro"),
    }
    if n_classes == 2:
        wanted["auroc"] = tm.binary_auroc(s[:, 1], y)
        wanted["sensitivity"] = tm.binary_recall(s[:, 1], y)
        wanted["specificity"] = tm.binary_specificity(s[:, 1], y)
    wanted = {name: float(value) for name, value in wanted.items()}
    assert found == pytest.approx(wanted, abs=1e-5)


def test_metrics_of_numbers_and_retrieval_equal_torchmetrics(rng):
    import torch
    from torchmetrics.functional import regression as tm
    from torchmetrics.functional.retrieval import retrieval_average_precision

    truth = rng.normal(50, 9, 100)
    predicted = 0.5 * truth + rng.normal(20, 6, 100)
    found = {name: values[0] for name, values in number_metrics(truth, predicted).items()}
    p, y = torch.from_numpy(predicted), torch.from_numpy(truth)
    wanted = {
        "mae": tm.mean_absolute_error(p, y), "mse": tm.mean_squared_error(p, y),
        "r": tm.pearson_corrcoef(p, y), "spearman": tm.spearman_corrcoef(p, y),
        "r2": tm.r2_score(p, y),
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(
        {name: float(value) for name, value in wanted.items()}, rel=1e-4
    )
    identity = np.repeat(np.arange(8), 3)
    similarity = rng.standard_normal((24, 24))
    of_query = retrieval_of_queries(similarity, identity)["map"]
    for query in range(24):
        others = np.delete(np.arange(24), query)
        wanted_map = retrieval_average_precision(
            torch.from_numpy(np.exp(similarity[query, others])),  # it wants them above 0
            torch.from_numpy(identity[others] == identity[query]),
        )
        assert of_query[query] == pytest.approx(float(wanted_map), abs=1e-5)
