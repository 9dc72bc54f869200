"""Labels as what a model is trained on: standardised numbers, or weighted classes.

Mean, standard deviation and class weights are those of the training units of a fold.
"""

# X: outputs, one for each class, or one number

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.finetuning.config import LossConfig
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.units import Units

__all__ = ["Targets", "labels_of_units"]

Floats = npt.NDArray[np.floating[Any]]


def labels_of_units(units: Units) -> npt.NDArray[Any]:
    """Return the numbers, or the numbers of the classes, of all units."""
    return units.labels.values if units.task.kind == "regression" else units.codes


class Targets(nn.Module):
    """The labels of all units, for one fold.

    Parameters
    ----------
    units : Units
    fold : Fold
        Its training side alone decides on mean, standard deviation and class weights.
    config : LossConfig
    labels : np.ndarray of shape (n_units,), optional
        Numbers, or numbers of classes; default: those of the units.

    Raises
    ------
    ConfigError
        If all training units have the same label.
    """

    wanted: Tensor
    class_weights: Tensor | None

    def __init__(
        self, units: Units, fold: Fold, config: LossConfig, labels: npt.NDArray[Any] | None = None
    ) -> None:
        super().__init__()
        labels = labels_of_units(units) if labels is None else labels
        _require_two(units, fold, labels)
        self.of_numbers = units.task.kind == "regression"
        self.mean, self.sd, self.kind = 0.0, 1.0, config.numbers
        weights: Tensor | None = None
        if self.of_numbers:
            if config.standardize:
                own = labels[fold.train]
                self.mean, self.sd = float(own.mean()), float(own.std())
            wanted = torch.from_numpy((labels - self.mean) / self.sd)[:, None]
        else:
            n_classes = len(units.classes)
            wanted = F.one_hot(torch.from_numpy(labels), n_classes)
            if config.class_weights:
                weights = _balanced(labels[fold.train], n_classes)
        self.register_buffer("wanted", wanted.float(), persistent=False)
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def n_outputs(self) -> int:
        """Outputs of a model: one for each class, or one number."""
        return self.wanted.shape[1]

    def of(self, unit_B: Tensor) -> Tensor:
        """Return what the model should predict of units [B X]."""
        return self.wanted[unit_B]

    def losses(self, outputs_BX: Tensor, wanted_BX: Tensor) -> Tensor:
        """Return the loss of each window or unit [B]."""
        if not self.of_numbers:
            return F.cross_entropy(
                outputs_BX, wanted_BX, weight=self.class_weights, reduction="none"
            )
        error_B = (outputs_BX - wanted_BX)[:, 0]
        return error_B.square() if self.kind == "mse" else error_B.abs()

    def scores(self, outputs: Floats) -> Floats:
        """Turn outputs (n, X) into probabilities of classes, or into numbers of the target."""
        if self.of_numbers:
            return self.mean + self.sd * outputs
        shifted = np.exp(outputs - outputs.max(1, keepdims=True))
        return np.asarray(shifted / shifted.sum(1, keepdims=True))


def _balanced(codes: npt.NDArray[np.int64], n_classes: int) -> Tensor:
    """Return the weight of each class; the mean over the units is 1, absent classes have 0."""
    counts = np.bincount(codes, minlength=n_classes)
    there = counts > 0
    weights = np.where(there, len(codes) / np.maximum(counts, 1) / there.sum(), 0.0)
    return torch.from_numpy(weights).float()


def _require_two(units: Units, fold: Fold, labels: npt.NDArray[Any]) -> None:
    there = np.unique(labels[fold.train])
    if len(there) < 2:
        named = f" ({fold.name})" if fold.name else ""
        raise ConfigError(
            expected("Training side", f"of seed {fold.seed}, fold {fold.number}{named}",
                     f"two or more different labels of {units.task.target[0]}",
                     f"one in all of {counted(fold.train.sum(), units.task.unit)}",
                     "Choose another split, or fewer folds.")
        )  # fmt: skip
