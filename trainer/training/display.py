"""What a person sees while a model trains."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fmritok.trainer.data.reading import Rate
from fmritok.trainer.objectives.base import Figure

__all__ = ["TrainingDisplay", "figures_table"]


class TrainingDisplay:
    """Progress bar with loss, tokens per second and stall share; lines only without a terminal."""

    def __init__(self, console: Console, *, n_steps: int, step: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=n_steps, completed=step, figures="")

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, step: int, loss: float, rate: Rate) -> None:
        """Show a step's loss and the rate so far in the bar."""
        figures = (
            f"loss {loss:.4f}  {rate.tokens_per_s:,.0f} tokens/s  stall {rate.stall_share:.1%}"
        )
        self._progress.update(self._task, completed=step, figures=figures)

    def validation(self, step: int, figures: dict[str, float], shown: tuple[Figure, ...]) -> None:
        """Print the figures of a validation above the bar."""
        trivial: dict[str, list[str]] = {}
        for one in shown:
            text = f"{one.trivial_label} {figures[one.trivial]:.4f}"
            trivial.setdefault(one.name, []).append(text)
        text = ", ".join(
            f"{name} {figures[name]:.4f} ({', '.join(others)})" for name, others in trivial.items()
        )
        line = f"step {step}: validation {text}"
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def figures_table(figures: dict[str, float], shown: tuple[Figure, ...]) -> Table:
    """Set the model's figures beside those of trivial models and oracles."""
    table = Table("", "model", "compared with", "", "ratio")
    for one in shown:
        model, trivial = figures[one.name], figures[one.trivial]
        ratio = f"{model / trivial:.3f}" if trivial else "-"
        table.add_row(one.label, f"{model:.4f}", one.trivial_label, f"{trivial:.4f}", ratio)
    return table
