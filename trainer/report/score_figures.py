"""Pictures of scores: all rows with intervals, and the predictions of the best row by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmritok.pictures.style import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    SEQUENTIAL,
    VERMILION,
    figure_of,
    label_lines,
)
from fmritok.trainer.report.scores import ScoredRow, TaskScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_predictions", "draw_rows"]

_BINS = 8
_BELOW = 0.24  # rows, of chance below a score
_MOST_CURVES = 5
_FEW = 8  # units of a bin of the calibration
#: Where nothing is learned, and the largest value.
_RANGES = {"acc": (0, 1), "balanced_accuracy": (0, 1), "macro_f1": (0, 1), "auroc": (0, 1),
           "auroc_ovr": (0, 1), "sensitivity": (0, 1), "specificity": (0, 1), "top1": (0, 1),
           "map": (0, 1)}  # fmt: skip


def draw_rows(scores: TaskScores, title: str = "") -> Figure:
    """Draw each row's mean with its interval, and below it what permuted labels reach."""
    rows, metric = scores.rows[::-1], scores.metric
    figure = figure_of(8.5, 0.42 * len(rows) + (1.5 if title else 1.2), title)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        one, colour = row.figure(metric), GREY if row.baseline else BLUE
        if one["interval"]:
            axes.plot(one["interval"], [place, place], color=colour, lw=2.5,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot(one["mean"], place, "o", color=colour, ms=6)
        if one["chance"]:
            below = place - _BELOW
            axes.plot(one["chance"]["mean"], below, "|", color=VERMILION, ms=7, mew=2)
            axes.plot([one["chance"]["mean"], one["chance"]["limit"]], [below, below],
                      color=VERMILION, lw=1, alpha=0.7)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    if metric in _RANGES:
        axes.set_xlim(*_RANGES[metric])
    elif metric in ("r", "spearman"):
        axes.set_xlim(min(-0.25, axes.get_xlim()[0]), 1)
    axes.grid(axis="x", lw=0.4, alpha=0.5)
    said = f"{metric.replace('_', ' ')}: mean and 95 % interval; grey: baselines"
    if any(row.figure(metric)["chance"] for row in rows):
        said += "; orange: permuted labels, their mean and 95 % limit"
    axes.set_xlabel(said)
    return figure


def draw_predictions(scores: TaskScores) -> tuple[Figure, str]:
    """Draw the predictions of the best row; ROC curves of all rows.

    Returns
    -------
    figure, caption
    """
    kind, best = scores.tree["kind"], scores.best
    whose = f"Predictions of {best.name}, all folds and seeds"
    if kind == "regression":
        figure = figure_of(8.5, 3.8)
        left, right = figure.subplots(1, 2)
        _scatter(left, best)
        _errors(right, best)
        return figure, f"{whose}: predicted against true value; error against true value."
    if kind == "retrieval":
        figure = figure_of(6, 3.2)
        axes = figure.subplots()
        axes.hist(best.predictions["score"], bins=np.linspace(0, 1, 21).tolist(), color=BLUE)
        axes.set(xlabel="average precision of a run", ylabel="runs")
        return figure, f"Retrieval by {best.name}: average precision of each run."
    classes = _classes(best)
    if kind == "binary":
        figure = figure_of(11, 3.8)
        confusion, roc, calibration = figure.subplots(1, 3)
        _roc(roc, scores, classes[1])
    else:
        figure = figure_of(10, 3.8 + 0.12 * len(classes))
        confusion, calibration = figure.subplots(1, 2)
    _confusion(confusion, best, classes)
    _calibration(calibration, best, classes)
    parts = ["confusion matrix (share of each true class)"]
    parts += ["ROC curves"] if kind == "binary" else []
    return figure, f"{whose}: {', '.join(parts)}, calibration."


def _classes(row: ScoredRow) -> list[str]:
    return [column[2:-1] for column in row.predictions.columns if column.startswith("p(")]


def _confusion(axes: Axes, row: ScoredRow, classes: list[str]) -> None:
    truth, found = (row.predictions[name] for name in ("truth", "predicted"))
    counts = np.array([[((truth == t) & (found == p)).sum() for p in classes] for t in classes])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
    if len(classes) <= 10:
        for (i, j), share in np.ndenumerate(shares):
            axes.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=8,
                      color="white" if share < 0.6 else INK)  # fmt: skip
    turn: dict[str, Any] = {"rotation": 40, "ha": "right"} if max(map(len, classes)) > 3 else {}
    axes.set_xticks(range(len(classes)), classes, **turn)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)


def _roc(axes: Axes, scores: TaskScores, positive: str) -> None:
    shown = [scores.best, *(row for row in scores.rows if row is not scores.best)][:_MOST_CURVES]
    ends = []
    for row, colour in zip(shown, COLOURS, strict=False):
        truth = row.predictions["truth"].to_numpy() == positive
        order = np.argsort(-row.predictions["score"].to_numpy(), kind="stable")
        score, truth = row.predictions["score"].to_numpy()[order], truth[order]
        last = np.r_[np.flatnonzero(np.diff(score)), len(score) - 1]  # of each tie
        hits = np.r_[0, np.cumsum(truth)[last] / max(truth.sum(), 1)]
        false = np.r_[0, np.cumsum(~truth)[last] / max((~truth).sum(), 1)]
        axes.plot(false, hits, color=colour, lw=2 if row is scores.best else 1)
        ends.append((float(np.interp(0.5, false, hits)), row.name, colour))
    axes.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="1 - specificity",
             ylabel="sensitivity")  # fmt: skip
    for number, (_, name, colour) in enumerate(ends):
        axes.text(0.97, 0.04 + 0.075 * (len(ends) - 1 - number), name, color=colour, ha="right",
                  fontsize=7.5)  # fmt: skip


def _calibration(axes: Axes, row: ScoredRow, classes: list[str]) -> None:
    """Draw how often predictions of a probability come true, in bins of equally many."""
    if len(classes) == 2:
        found = row.predictions["score"].to_numpy(float)
        true = row.predictions["truth"].to_numpy() == classes[1]
        name = f"probability of {classes[1]}"
    else:
        found = row.predictions[[f"p({one})" for one in classes]].to_numpy(float).max(1)
        true = row.predictions["truth"] == row.predictions["predicted"]
        true, name = true.to_numpy(), "probability of the predicted class"
    order = np.argsort(found)
    bins = [part for part in np.array_split(order, min(_BINS, max(len(order) // _FEW, 1)))
            if len(part)]  # fmt: skip
    x = [found[part].mean() for part in bins]
    y = np.array([true[part].mean() for part in bins])
    low, high = _wilson(y, np.array([len(part) for part in bins]))
    axes.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1)
    axes.errorbar(x, y, yerr=[y - low, high - y], fmt="o-", color=BLUE, ms=4, lw=1, elinewidth=1)
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
        xlabel=name,
        ylabel="share that is true",
    )


def _wilson(
    share: npt.NDArray[np.float64], n: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the 95 % interval of shares by Wilson; that of 0 of n and n of n has a width, too."""
    z2 = 1.96**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def _scatter(axes: Axes, row: ScoredRow) -> None:
    means = row.predictions.groupby("unit")[["truth", "score"]].mean()
    truth, found = means["truth"].to_numpy(float), means["score"].to_numpy(float)
    both = np.concatenate([truth, found])
    span = (float(both.min()), float(both.max()))
    axes.plot(span, span, color=GREY, ls=":", lw=1)
    axes.scatter(truth, found, s=14, color=BLUE, alpha=0.6, lw=0)
    _line(axes, truth, found)
    axes.set(xlabel="true", ylabel="predicted (mean over seeds)", aspect="equal")


def _errors(axes: Axes, row: ScoredRow) -> None:
    means = row.predictions.groupby("unit")[["truth", "score"]].mean()
    truth = means["truth"].to_numpy(float)
    error = means["score"].to_numpy(float) - truth
    axes.axhline(0, color=GREY, ls=":", lw=1)
    axes.scatter(truth, error, s=14, color=BLUE, alpha=0.6, lw=0)
    _line(axes, truth, error)
    axes.set(xlabel="true", ylabel="predicted - true")


def _line(axes: Axes, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    if len(x) < 3 or x.std() == 0:
        return
    slope, offset = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, offset + slope * ends, color=VERMILION, lw=1.5)
    label_lines(axes, [(float(offset + slope * ends[1]), f"slope {slope:.2f}", VERMILION)])
