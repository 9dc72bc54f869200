"""The loss curve of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fmritok.pictures.style import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    calm_limits,
    figure_of,
    house_style,
    label_lines,
    png,
)
from fmritok.trainer.faults import write_whole
from fmritok.trainer.objectives.base import Figure
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["draw_losses", "draw_panel", "plot_losses"]

Rows = Sequence[dict[str, Any]]


def plot_losses(folder: TrainingFolder, shown: Sequence[Figure]) -> None:
    """Draw the loss curve of a training into its folder; see :func:`draw_losses`."""
    with house_style():
        picture = draw_losses(
            read_metrics(folder.path), shown, title=f"Losses of {folder.path.name}"
        )
        write_whole(folder.picture, png(picture))


def draw_losses(rows: Rows, shown: Sequence[Figure], *, title: str) -> Picture:
    """Draw figures of training, of validation and of trivial models.

    Parameters
    ----------
    rows : sequence of dict
        As :func:`fmritok.trainer.record.metrics.read_metrics` returns them.
    shown : sequence of Figure
        One panel per measure, with the trivial models it is compared with.
    title : str
    """
    panels: dict[str, list[Figure]] = {}
    for one in shown:
        panels.setdefault(one.name, []).append(one)
    picture = figure_of(5.2 * max(len(panels), 1), 3.6, title)
    grid = picture.subplots(1, max(len(panels), 1), squeeze=False, gridspec_kw={"wspace": 0.08})[0]
    for axes, figures in zip(grid, panels.values(), strict=False):
        draw_panel(axes, rows, figures)
    return picture


def draw_panel(axes: Axes, rows: Rows, figures: Sequence[Figure]) -> None:
    """Draw one measure of training, of validation and of trivial models."""
    name = figures[0].name
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    lines: list[tuple[list[int], list[float], str, str, dict[str, Any]]] = [
        (*_along(train, name), "training", BLUE, {"lw": 0.9, "alpha": 0.75}),
        (*_along(validation, name), "validation", VERMILION, {"marker": "o", "ms": 3.5}),
    ]
    for one, dashes in zip(figures, ("--", ":", "-."), strict=False):
        steps, values = _along(validation or train, one.trivial)
        lines.append((steps, values, one.trivial_label, INK if dashes == "--" else GREY,
                      {"ls": dashes, "lw": 1.1}))  # fmt: skip
    drawn = [line for line in lines if line[0]]
    for steps, values, _, colour, style in drawn:
        axes.plot(steps, values, color=colour, **style)
    axes.set(xlabel="optimizer step", ylabel=figures[0].label)
    noisy, *others = (values for _, values, *_ in lines)
    calm_limits(axes, noisy, [value for values in others for value in values])
    label_lines(axes, [(values[-1], text, colour) for _, values, text, colour, _ in drawn])
    last = [row[name] for row in validation if name in row][-1:]
    trivial = [row[figures[0].trivial] for row in validation if figures[0].trivial in row][-1:]
    if last and trivial:
        compared = f"{figures[0].trivial_label} {trivial[0]:.3g}"
        axes.set_title(f"validation {last[0]:.3g} at the end ({compared})", weight="normal")


def _along(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    there = [row for row in rows if name in row]
    return [row["step"] for row in there], [row[name] for row in there]
