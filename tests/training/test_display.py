"""While a model trains, its progress shows the time left, the loss, the speed and validations."""

from __future__ import annotations

import io

from rich.console import Console

from fmritok import terminal
from fmritok.trainer.objectives.base import Figure
from fmritok.trainer.record.throughput import Rate
from fmritok.trainer.training.display import TrainingDisplay

RATE = Rate(tokens_per_s=12345.6, stall_share=0.031)
FIGURE = Figure("mse", "mean_mse", "error", "mean token")


def test_a_resumed_training_shows_its_loss_and_the_time_left_of_its_own_steps():
    console = Console(file=io.StringIO())
    with TrainingDisplay(console, n_steps=4000, step=3000) as display:
        display._start -= 60
        display.step_done(3100, 0.51234, RATE)
        assert display.left == "9 min left"
        assert display._text(100) == (
            "3,100 of 4,000 steps  loss 0.5123  12,346 tokens/s  stall 3.1%  9 min left"
        )
        assert display._text(50) == "3,100 of 4,000 steps  loss 0.5123  9 min left"


def test_the_first_step_has_no_speed():
    with TrainingDisplay(Console(file=io.StringIO()), n_steps=10, step=0) as display:
        display.step_done(1, 0.5, Rate(0.0, 0.0))
        assert display._text(100).startswith("1 of 10 steps  loss 0.5000  ")
        assert "tokens/s" not in display._text(100)


def test_validations_are_lines_of_their_own_and_none_with_q(monkeypatch):
    out = io.StringIO()
    with TrainingDisplay(Console(file=out, width=200), n_steps=10, step=0) as display:
        display.validation(5, {"mse": 0.4, "mean_mse": 0.8}, (FIGURE,))
        monkeypatch.setattr(terminal, "_chosen", terminal.Verbosity.QUIET)
        display.validation(10, {"mse": 0.3, "mean_mse": 0.8}, (FIGURE,))
    assert out.getvalue() == "step 5: validation mse 0.4000 (mean token 0.8000)\n"
