"""Self-supervised objectives: modules that wrap an encoder and turn a batch into a loss."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from fmritok.trainer.streaming import Batch

__all__ = ["Mean", "Objective", "ObjectiveOutput"]


class Mean(NamedTuple):
    """A mean still in two parts, so that means over batches of unequal size stay exact."""

    total: Tensor
    """sum, scalar"""
    n_values: Tensor
    """of how many values, scalar"""


class ObjectiveOutput(NamedTuple):
    """What an objective returns for a batch."""

    loss: Tensor
    """what is minimised, scalar, float32"""
    measures: dict[str, Mean]
    """figures to report by name, without gradient; empty unless asked for"""


class Objective(Protocol):
    """A loss on batches; a ``torch.nn.Module`` with its encoder as ``encoder``."""

    def __call__(self, batch: Batch, *, measure: bool = False) -> ObjectiveOutput:
        """Return the loss of a batch, and with ``measure`` the figures beside it."""
        ...
