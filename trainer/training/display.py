"""What a person sees while a model trains."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fmritok.progress import Progress
from fmritok.quantities import counted
from fmritok.terminal import Verbosity, verbosity
from fmritok.trainer.objectives.base import Figure
from fmritok.trainer.record.throughput import Rate

__all__ = ["TrainingDisplay", "figures_table"]


class TrainingDisplay(Progress):
    """Progress of a training with its loss and speed, and the figures of each validation.

    Parameters
    ----------
    console : Console
    n_steps : int
        Steps of the whole training.
    step : int
        Steps done before.
    """

    def __init__(self, console: Console, *, n_steps: int, step: int) -> None:
        super().__init__("training", console=console, begun_at=step)
        self._n_steps = n_steps

    def step_done(self, step: int, loss: float, rate: Rate) -> None:
        """Show a step's loss and the rate so far; the first step has none."""
        speed = [f"{rate.tokens_per_s:,.0f} tokens/s", f"stall {rate.stall_share:.1%}"]
        self(
            step, self._n_steps, "steps",
            count=f"{step:,} of {counted(self._n_steps, 'step')}  loss {loss:.4f}",
            remarks=speed if rate.tokens_per_s else [],
        )  # fmt: skip

    def validation(self, step: int, figures: dict[str, float], shown: tuple[Figure, ...]) -> None:
        """Print the figures of a validation, above the bar if there is one; nothing with -q."""
        if verbosity() == Verbosity.QUIET:
            return
        trivial: dict[str, list[str]] = {}
        for one in shown:
            text = f"{one.trivial_label} {figures[one.trivial]:.4f}"
            trivial.setdefault(one.name, []).append(text)
        text = ", ".join(
            f"{name} {figures[name]:.4f} ({', '.join(others)})" for name, others in trivial.items()
        )
        line = f"step {step}: validation {text}"
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


def figures_table(figures: dict[str, float], shown: tuple[Figure, ...]) -> Table:
    """Set the model's figures beside those of trivial models and oracles."""
    table = Table("", "model", "compared with", "", "ratio")
    for one in shown:
        model, trivial = figures[one.name], figures[one.trivial]
        ratio = f"{model / trivial:.3f}" if trivial else "-"
        table.add_row(one.label, f"{model:.4f}", one.trivial_label, f"{trivial:.4f}", ratio)
    return table
