"""What came of a training, in one sentence, from its own metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fmritok.trainer.objectives.base import Figure

__all__ = ["verdict"]

Row = Mapping[str, Any]

_NOISE = 0.01  # of the loss that is compared with: smaller changes say nothing
_GAP = 0.05  # of the same: between training and validation
_STALLED = 0.1  # share of the time
_ENOUGH = 10  # steps to tell whether a loss still falls


def verdict(rows: Sequence[Row], shown: Sequence[Figure]) -> str | None:
    """Say how good the model is, whether it over- or underfits, and whether it waited for data.

    Parameters
    ----------
    rows : sequence of dict
        As :func:`fmritok.trainer.record.metrics.read_metrics` returns them.
    shown : sequence of Figure
        The first one is compared.

    Returns
    -------
    str or None
        None without rows of training, or of the figure that is compared.
    """
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    compared = [row for row in validation or train if shown and shown[0].trivial in row]
    if not train or not compared:
        return None
    last = compared[-1]
    loss, trivial = last[shown[0].name], last[shown[0].trivial]
    scale = max(abs(loss), abs(trivial))
    gain = (trivial - loss) / scale if scale else 0.0
    where = "on held-out subjects" if validation else "on training windows"
    parts = [
        f"{_gain(loss, trivial, gain)} than the {shown[0].trivial_label} {where}",
        _fit([row["loss"] for row in train], validation, gain, scale),
        _stall(train),
    ]
    return f"Verdict: {'; '.join(parts)}."


def _gain(loss: float, trivial: float, gain: float) -> str:
    if abs(gain) < _NOISE:
        return "no better"
    word = "better" if gain > 0 else "worse"
    if trivial > 0:
        return f"{abs(trivial - loss) / trivial:.1%} {word}"
    return f"{word} by {abs(trivial - loss):.3f}"  # no shares of what may be 0


def _fit(losses: Sequence[float], validation: Sequence[Row], gain: float, scale: float) -> str:
    """Compare validation with training, and the end of the training with what was before."""
    part = max(1, len(losses) // 5)
    now, before = fmean(losses[-part:]), fmean(losses[-2 * part : -part] or losses)
    if validation:
        best, last = min(validation, key=lambda row: row["loss"]), validation[-1]
        if last["loss"] - best["loss"] > _NOISE * scale:
            return (
                f"overfitting: the validation loss was lowest at step {best['step']} "
                f"({best['loss']:.4f}, at the end {last['loss']:.4f})"
            )
        if last["loss"] - now > _GAP * scale:
            return f"overfitting: validation loss {last['loss']:.4f}, training loss {now:.4f}"
    if len(losses) >= _ENOUGH and before - now > _NOISE * scale:
        return "underfitting: the training loss still falls, so train longer"
    if gain < _NOISE:
        return "underfitting: the model has learned nothing"
    if not validation:
        return "overfitting is unknown without validation"
    return "neither over- nor underfitting"


def _stall(train: Sequence[Row]) -> str:
    """Average the share of waiting over the steps but the first, which starts the workers."""
    share = fmean(row["stall_share"] for row in train[1:] or train)
    if share > _STALLED:
        return f"stalled on data {share:.0%} of the time: try more --loader-workers"
    return f"not stalled on data ({share:.1%} of the time)"
