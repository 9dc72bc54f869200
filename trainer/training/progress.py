"""How far a training has come, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmritok.trainer.data.reading import Rate
from fmritok.trainer.objectives.base import Figure

__all__ = ["Position", "Summary"]


@dataclass(frozen=True)
class Position:
    """How far a training has come; saved in every checkpoint.

    Attributes
    ----------
    step : int
        Steps done.
    epoch, seen : int
        Epoch, and its samples that were trained on.
    validated : int or None
        Step of the last validation.
    validation : dict or None
        Its figures.
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
        Of the last validation; of the last training batches without validation runs.
    shown : tuple of Figure
        Which of them to show, and beside what.
    validated : bool
        Whether the figures are of held-out subjects.
    rate : Rate or None
        Of this process, start-up and validation not counted; None if the training was at its end
        before.
    checkpoint : Path
    picture : Path or None
        Of the losses; None if it could not be drawn.
    """

    step: int
    figures: dict[str, float]
    shown: tuple[Figure, ...]
    validated: bool
    rate: Rate | None
    checkpoint: Path
    picture: Path | None
