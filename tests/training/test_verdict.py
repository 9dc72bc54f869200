"""The verdict on a training, on made-up metrics."""

from __future__ import annotations

import pytest

from fmritok.trainer.objectives.base import Figure
from fmritok.trainer.training.verdict import verdict

MEAN = (Figure("loss", "loss_mean_token", "masked tokens, L1", "mean token"),)
FLAT = [0.7] * 20


def _rows(train, validation=(), *, stall=0.02, trivial=1.0):
    rows = [
        {"kind": "train", "step": i, "loss": loss, "stall_share": 0.9 if i == 1 else stall,
         "loss_mean_token": trivial}
        for i, loss in enumerate(train, 1)
    ]  # fmt: skip
    rows += [
        {"kind": "validation", "step": 10 * i, "loss": loss, "loss_mean_token": trivial}
        for i, loss in enumerate(validation, 1)
    ]
    return rows


@pytest.mark.parametrize(
    ("train", "validation", "said"),
    [
        (FLAT, [0.8, 0.7], "30.0% better than the mean token on held-out subjects; neither over-"),
        (FLAT, [0.71, 0.8], "lowest at step 10 (0.7100, at the end 0.8000)"),
        ([0.5] * 20, [0.8, 0.7], "overfitting: validation loss 0.7000, training loss 0.5000"),
        ([1 - 0.02 * i for i in range(20)], [0.8, 0.68], "underfitting: the training loss still"),
        ([1.0] * 20, [1.001], "no better than the mean token on held-out subjects; underfitting"),
        ([1.2] * 20, [1.2], "20.0% worse than the mean token"),
        (FLAT, [], "30.0% better than the mean token on training windows; overfitting is unknown"),
    ],
)
def test_what_is_said_of_the_losses(train, validation, said):
    assert said in verdict(_rows(train, validation), MEAN)


def test_waiting_for_data_counts_without_the_first_step():
    assert "; not stalled on data (2.0% of the time)." in verdict(_rows(FLAT, [0.7]), MEAN)
    stalled = verdict(_rows(FLAT, [0.7], stall=0.4), MEAN)
    assert stalled.endswith("; stalled on data 40% of the time: try more --loader-workers.")


def test_losses_below_zero_are_compared_by_their_difference():
    assert "better by 0.500 than the mean token" in verdict(
        _rows([-1.5] * 20, [-1.5], trivial=-1.0), MEAN
    )


def test_nothing_is_said_without_rows_or_a_figure():
    assert verdict([], MEAN) is None
    assert verdict(_rows(FLAT, [0.7]), ()) is None
    assert verdict([{"kind": "validation", "step": 1, "loss": 1.0}], MEAN) is None
