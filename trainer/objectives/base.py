"""The interface of objectives, and their output."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from fmritok.trainer.config import ObjectiveConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.model import TokenTransformer

__all__ = ["Figure", "Mean", "Objective", "ObjectiveModule", "ObjectiveOutput"]


class Mean(NamedTuple):
    """A sum and a count. Means over batches of unequal size stay exact."""

    total: Tensor
    """sum, scalar"""
    n_values: Tensor
    """number of values, scalar"""

    @property
    def value(self) -> Tensor:
        """The mean, scalar."""
        return self.total / self.n_values


class ObjectiveOutput(NamedTuple):
    """Loss and measures of a batch."""

    loss: Mean
    """the loss to minimise, float32"""
    measures: dict[str, Mean]
    """measures by name, without gradient; empty unless requested"""


class Figure(NamedTuple):
    """A measure, and the measure of a trivial model or an oracle to compare it with."""

    name: str
    trivial: str
    label: str
    trivial_label: str


class Objective(Protocol):
    """A loss on batches: a ``torch.nn.Module`` with the encoder that it trains.

    The class is called as ``Kind(encoder, config, window=...)``:

    - ``encoder`` is a :class:`~fmritok.trainer.model.model.TokenTransformer` with new weights; its
      ``grid.layout`` says what the tokens are;
    - ``config`` is an instance of :attr:`Config`;
    - ``window`` is the number of frames of the windows in a batch.

    Random numbers follow from ``batch.draws`` alone. The result of a training then does not depend
    on the number of processes, and a resumed training repeats it exactly.
    """

    #: Options, as ``objective.OPTION`` in recipes: a frozen dataclass of numbers, flags, texts and
    #: ``Literal`` choices, all with defaults, derived from ``ObjectiveConfig``.
    Config: ClassVar[type[ObjectiveConfig]]
    #: Measures to show, each with the one it is compared with.
    figures: ClassVar[tuple[Figure, ...]]

    @property
    def encoder(self) -> TokenTransformer:
        """The encoder that is trained."""
        ...

    @property
    def features(self) -> TokenTransformer:
        """The encoder to use after training."""
        ...

    @property
    def window(self) -> int:
        """Maximum number of frames that the encoder sees at once."""
        ...

    def __call__(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch and, with ``measure``, its measures.

        ``progress`` is the share of the training that is done, from 0 to 1.
        """
        ...

    def after_step(self, progress: float) -> None:
        """Update what follows the optimizer, such as a moving average of the weights.

        ``progress`` is that of the step's losses.
        """
        ...


if TYPE_CHECKING:

    class ObjectiveModule(nn.Module, Objective):
        """An objective that is a ``torch.nn.Module``."""

else:
    ObjectiveModule = nn.Module
