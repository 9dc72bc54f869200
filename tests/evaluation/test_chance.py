"""Chance is what permuted labels score: mean, limit and p, for high and for low figures."""

from __future__ import annotations

import numpy as np
import pytest

from fmritok.trainer.evaluation.metrics import LOWER_IS_BETTER, METRICS
from fmritok.trainer.evaluation.statistics.chance import Score, chance


def _scores(name, real, *permuted):
    """One score for each seed."""
    return [
        Score(seed, {name: figure}, {}, {name: np.array(of_seed, float)})
        for seed, (figure, of_seed) in enumerate(zip(real, permuted, strict=True))
    ]


def test_permuted_scores_of_all_seeds_are_summed_up():
    found = chance("r", _scores("r", [0.5, 0.7], range(-5, 5), range(5, 15)))
    values = np.arange(-5, 15)
    assert found["mean"] == values.mean()
    assert found["limit"] == pytest.approx(np.quantile(values, 0.95))
    assert found["permutations"] == 20
    # 1 to 14 are as good as 0.6, and the real labels are one permutation of their own.
    assert found["p"] == (1 + 14) / (1 + 20)


def test_low_errors_are_good():
    assert set(LOWER_IS_BETTER) == {
        n for n in METRICS["regression"] if n.startswith(("mae", "mse"))
    }
    for name in LOWER_IS_BETTER:
        found = chance(name, _scores(name, [3.0], range(1, 21)))
        assert found["limit"] == pytest.approx(np.quantile(np.arange(1, 21), 0.05))
        assert found["p"] == (1 + 3) / (1 + 20)


def test_p_is_never_zero_and_equal_scores_count():
    assert chance("acc", _scores("acc", [0.9], [0.5] * 19))["p"] == 1 / 20
    assert chance("acc", _scores("acc", [0.5], [0.5] * 19))["p"] == 1


def test_without_permutations_there_is_no_chance():
    assert chance("acc", _scores("acc", [0.9], [])) is None
