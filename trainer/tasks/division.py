"""Divide the units of a task into folds: by its rule, a file, or what a training held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.split_file import (
    Pretraining,
    held_out_fold,
    overlap,
    read_pretraining,
    read_split,
)
from fmritok.trainer.tasks.splits import Fold, folds_of
from fmritok.trainer.tasks.units import Units

__all__ = ["SplitOptions", "divide"]


class SplitOptions(NamedTuple):
    """A division other than the task's own."""

    file: Path | None = None
    held_out: Path | None = None
    """a training, on whose held-out subjects is tested"""
    pretraining: Path | None = None
    """a training, whose subjects are looked for among the tested ones"""


def divide(
    units: Units, split: SplitOptions, runs: pd.DataFrame
) -> tuple[list[Fold], dict[str, Any]]:
    """Divide units by the task's rule, a file, or a pretraining; name who it has seen.

    Parameters
    ----------
    units : Units
    split : SplitOptions
    runs : pd.DataFrame
        All runs of the store.
    """
    details: dict[str, Any] = {"split": {"by": units.task.split.by}, "overlap": None}
    seen: Pretraining | None = None
    if split.file is not None and split.held_out is not None:
        raise ConfigError(
            expected("Option", "--split", "one way of dividing subjects", "--held-out as well",
                     "Choose one of them.")
        )  # fmt: skip
    if split.file is not None:
        fold, said = read_split(split.file, units)
        folds, details["split"] = [fold], said
    elif split.held_out is not None:
        seen = read_pretraining(split.held_out)
        folds, details["split"] = [held_out_fold(seen, units, runs)], {"held_out": seen.name}
    else:
        folds = folds_of(units, units.task.split)
    if split.pretraining is not None:
        seen = read_pretraining(split.pretraining)
    if seen is not None:
        details["overlap"] = overlap(seen, units, folds, runs)
    return folds, details
