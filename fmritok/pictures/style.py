"""The house style: colours, fonts, labels beside lines, limits of axes, files.

Colours are those of Okabe and Ito, which colour-blind people tell apart. Every picture of fmritok
is drawn within :func:`house_style`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE", "COLOURS", "DIVERGING", "GREEN", "GREY", "INK", "ORANGE", "SEQUENTIAL", "VERMILION",
    "calm_limits", "figure_of", "house_style", "label_lines", "png", "robust_limit", "save",
]  # fmt: skip

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY = "#222222", "#8A8A8A"
#: Of categories, in this order.
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", VERMILION, "#56B4E9", "#6B5B2E", INK)
#: Colour map of values with a sign, and of values without one.
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"

_SETTINGS: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "figure.titlesize": 11.0,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "image.interpolation": "nearest",
}
#: An axis spans at least this share of its largest value.
_SPAN = 0.25


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style; a context or a decorator of a function that draws."""
    import matplotlib
    from matplotlib.rcsetup import cycler

    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    settings |= {**_SETTINGS, "backend": "agg", "axes.prop_cycle": cycler(color=COLOURS)}
    with matplotlib.rc_context(settings):
        yield


def figure_of(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure; width and height are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def png(figure: Figure, *, dpi: int = 120) -> bytes:
    """Return a figure as a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    return image.getvalue()


def save(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a figure to a PNG file; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure, dpi=dpi))


def robust_limit(values: npt.ArrayLike, *, percentile: float = 98.0) -> float:
    """Return a limit for colours around 0 that a few outliers do not change.

    Parameters
    ----------
    values : array_like
        NaN where there is nothing.
    percentile : float
        Of the absolute values.

    Returns
    -------
    float
        Above 0; 1 if there are no values other than 0.
    """
    array = np.abs(np.asarray(values, np.float64))
    array = array[np.isfinite(array) & (array > 0)]
    return float(np.percentile(array, percentile)) if array.size else 1.0


def calm_limits(axes: Axes, noisy: npt.ArrayLike, always: npt.ArrayLike = ()) -> None:
    """Set the limits of the y axis such that small differences look small.

    The axis spans at least a quarter of the largest value.

    Parameters
    ----------
    axes : Axes
    noisy : array_like
        Values of which the most extreme two percent at either side may lie outside.
    always : array_like
        Values that are all shown.
    """
    whole, parts = np.asarray(always, np.float64).ravel(), np.asarray(noisy, np.float64).ravel()
    parts = parts[np.isfinite(parts)]
    inner = np.percentile(parts, [2, 98]) if parts.size else parts
    array = np.concatenate([inner, whole[np.isfinite(whole)]])
    if not array.size:
        return
    low, high = float(array.min()), float(array.max())
    missing = _SPAN * max(abs(low), abs(high), 1e-12) - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    margin = 0.06 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def label_lines(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write the names of lines beside their ends, in their colours, none over another.

    Parameters
    ----------
    axes : Axes
        With its final limits and size.
    labels : sequence of (y, text, colour)
        Last value of each line, in data units.
    """
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    height = axes.get_window_extent().height / (100.0 if figure is None else figure.dpi)
    apart = 0.17 / max(height, 0.5)  # a line of text, in heights of the axes
    order = sorted(labels, key=lambda one: one[0])
    wanted = [min(max((y - low) / (high - low), 0.0), 1.0) for y, _, _ in order]
    for (_, text, colour), place in zip(order, _spread(wanted, apart), strict=True):
        axes.annotate(text, (1.0, place), xytext=(4, 0), xycoords="axes fraction",
                      textcoords="offset points", va="center", color=colour,
                      fontsize=8, annotation_clip=False)  # fmt: skip


def _spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Move ascending places from 0 to 1 as little as needed to lie apart.

    Places too near to each other are joined to a block around their mean.
    """
    blocks: list[list[float]] = []
    for place in wanted:
        blocks.append([place])
        while len(blocks) > 1 and _low(blocks[-1], apart) - _high(blocks[-2], apart) < apart:
            last = blocks.pop()
            blocks[-1] += last
    return [_low(block, apart) + apart * i for block in blocks for i in range(len(block))]


def _low(block: list[float], apart: float) -> float:
    return sum(block) / len(block) - apart * (len(block) - 1) / 2


def _high(block: list[float], apart: float) -> float:
    return _low(block, apart) + apart * (len(block) - 1)
