"""Position of a training, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmritok.trainer.objectives.base import Figure
from fmritok.trainer.record.throughput import Rate

__all__ = ["Position", "Summary"]


@dataclass(frozen=True)
class Position:
    """Position of a training; saved in every checkpoint.

    Attributes
    ----------
    step : int
        Steps done.
    epoch, seen : int
        Current epoch, and the number of its samples that were trained on.
    validated : int or None
        Step of the last validation.
    validation : dict or None
        Figures of the last validation.
    """

    step: int = 0
    epoch: int = 0
    seen: int = 0
    validated: int | None = None
    validation: dict[str, float] | None = None


@dataclass(frozen=True)
class Summary:
    """Outcome of a training.

    Attributes
    ----------
    step : int
    figures : dict
        Figures of the last validation, or of the last steps if there are no validation runs.
    shown : tuple of Figure
        Figures to show, each with the one it is compared with.
    validated : bool
        Whether the figures are of held-out subjects.
    rate : Rate or None
        Throughput of this process without start-up and validation; None if no step was left.
    checkpoint : Path
    picture : Path or None
        Loss curves; None if they could not be drawn.
    """

    step: int
    figures: dict[str, float]
    shown: tuple[Figure, ...]
    validated: bool
    rate: Rate | None
    checkpoint: Path
    picture: Path | None
