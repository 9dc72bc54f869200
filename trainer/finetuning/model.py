"""An encoder with a head that predicts the label of each window, and its loss."""

# X: outputs, one for each class, or one number

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fmritok.trainer.config import ObjectiveConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.finetuning.config import FinetuneConfig
from fmritok.trainer.finetuning.targets import Targets
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.pooling import pooled, pooled_width
from fmritok.trainer.objectives.base import Figure, Mean, ObjectiveOutput

__all__ = ["Classifier"]

_INIT_STD = 0.02


class Classifier(nn.Module):
    """An encoder and a head, with the labels that they learn.

    It is an :class:`~fmritok.trainer.objectives.base.Objective` on batches whose labels are the
    numbers of units. Random numbers come from torch's global generator.

    Parameters
    ----------
    encoder : TokenTransformer
    config : FinetuneConfig
    n_outputs : int
        One for each class, or one number.
    targets : Targets, optional
        For the loss.
    """

    Config: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    figures: ClassVar[tuple[Figure, ...]] = ()

    def __init__(
        self,
        encoder: TokenTransformer,
        config: FinetuneConfig,
        n_outputs: int,
        targets: Targets | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.targets = encoder, targets
        self.pool, self.mixup = config.head.pool, config.loss.mixup
        self.window = config.data.window or 1
        width = pooled_width(self.pool, width=encoder.config.width, n_cells=encoder.grid.n_cells)
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        if config.head.hidden is not None:
            layers += [nn.Dropout(config.head.dropout), nn.Linear(width, config.head.hidden)]
            layers += [nn.GELU()]
            width = config.head.hidden
        layers += [nn.Dropout(config.head.dropout), nn.Linear(width, n_outputs)]
        self.head = nn.Sequential(*layers)
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=_INIT_STD)
                nn.init.zeros_(layer.bias)

    @property
    def features(self) -> TokenTransformer:
        """The encoder to use after training."""
        return self.encoder

    def train(self, mode: bool = True) -> Classifier:
        """Switch dropout on or off; an encoder that is not trained has none."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def outputs(self, batch: Batch, partner_B: Tensor | None = None, share: float = 1.0) -> Tensor:
        """Return what is predicted of each window [B X], float32.

        Parameters
        ----------
        batch : Batch
        partner_B : torch.Tensor of shape (B,), int64, optional
            Window that each window is mixed with.
        share : float
            Of the window itself.
        """
        inputs = self.encoder.inputs(batch)
        patches, static = inputs.patches, inputs.static
        if partner_B is not None:
            patches = share * patches + (1 - share) * patches[partner_B]
            if static is not None:
                static = share * static + (1 - share) * static[partner_B]
        encoded = self.encoder(self.encoder.embed(patches), static, inputs.times, inputs.host_valid)
        outputs_BX: Tensor = self.head(pooled(encoded, inputs.valid, self.pool))
        return outputs_BX.float()

    def forward(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch."""
        assert batch.labels is not None
        assert self.targets is not None
        wanted_BX, partner_B, share = self.targets.of(batch.labels), None, 1.0
        if self.mixup and self.training and len(wanted_BX) > 1:
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
            partner_B = torch.randperm(len(wanted_BX), device=wanted_BX.device)
            wanted_BX = share * wanted_BX + (1 - share) * wanted_BX[partner_B]
        losses_B = self.targets.losses(self.outputs(batch, partner_B, share), wanted_BX)
        return ObjectiveOutput(Mean(losses_B.sum(), torch.tensor(len(losses_B))), {})

    def after_step(self, progress: float) -> None:
        """Do nothing."""
