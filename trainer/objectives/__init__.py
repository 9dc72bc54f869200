"""Self-supervised objectives: modules that wrap an encoder and turn a batch into a loss."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from fmritok.trainer.data.streaming import Batch
from fmritok.trainer.model.model import TokenTransformer

__all__ = ["Figure", "Mean", "Objective", "ObjectiveOutput"]


class Mean(NamedTuple):
    """A mean still in two parts, so that means over batches of unequal size stay exact."""

    total: Tensor
    """sum, scalar"""
    n_values: Tensor
    """of how many values, scalar"""

    @property
    def value(self) -> Tensor:
        """The mean, scalar."""
        return self.total / self.n_values


class ObjectiveOutput(NamedTuple):
    """What an objective returns for a batch."""

    loss: Mean
    """what is minimised, float32"""
    measures: dict[str, Mean]
    """figures to report by name, without gradient; empty unless asked for"""


class Figure(NamedTuple):
    """A measure that is shown beside what a trivial model, or an oracle, reaches."""

    name: str
    trivial: str
    label: str
    trivial_label: str


class Objective(Protocol):
    """A loss on batches; a ``torch.nn.Module`` with the encoder that it trains."""

    encoder: TokenTransformer
    #: What is shown of its measures.
    figures: ClassVar[tuple[Figure, ...]]

    @property
    def features(self) -> TokenTransformer:
        """The encoder to use after training."""
        ...

    def __call__(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch, and with ``measure`` the figures beside it.

        ``progress`` is the share of the training that is done, from 0 to 1.
        """
        ...

    def after_step(self, progress: float) -> None:
        """Do what follows a step of the optimizer."""
        ...
