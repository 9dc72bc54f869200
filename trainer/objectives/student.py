"""Options of self-distillation, and its network: an encoder with a head; the teacher is a copy."""

# B windows, U patches, C cells, W model width, Z features of an embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.config import require
from fmritok.trainer.model.inputs import PatchInputs
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.pooling import mean_over_time
from fmritok.trainer.objectives.coding_rate import centred
from fmritok.trainer.objectives.views import ViewConfig

__all__ = ["DistillConfig", "Embedded", "Student", "Summary"]

Summary = Literal["cls", "mean", "cells"]


@dataclass(frozen=True, kw_only=True)
class DistillConfig(ViewConfig):
    """Options of self-distillation.

    Attributes
    ----------
    summary : {"cls", "mean", "cells"}
        Compare CLS of two views, the mean of their tokens, or the means of each cell's tokens
        over time, side by side.
    centre : bool
        Subtract the mean over the batch from the embeddings. Each part of a step
        (``train.accumulate``) has a mean of its own, and needs several windows.
    momentum : float
        Momentum of the teacher at the start; it rises to 1.
    head_width, projection : int
        Hidden and final width of the head.
    head_std : float or None
        Standard deviation of the head's weights at the start (truncated normal, biases 0).
        None: those of torch's layers.
    mask_std : float
        Standard deviation of the mask vector at the start.
    epsilon : float
        Distortion of the coding rate.
    token_weight : float
        Weight of the hidden tokens.
    network_weight, network_share : float
        Weight of the networks (or cells) at the start; it falls to 0 over the first
        ``network_share`` of the training.
    """

    name: str = "distill"
    summary: Summary = "cls"
    centre: bool = False
    momentum: float = 0.99
    head_width: int = 256
    projection: int = 64
    head_std: float | None = None
    mask_std: float = 0.0
    epsilon: float = 0.05
    token_weight: float = 0.5
    network_weight: float = 0.5
    network_share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head_width", "projection"):
            value = getattr(self, name)
            require(value >= 1, f"objective.{name}", "1 or more", value)
        for name in ("momentum", "network_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"objective.{name}", "between 0 and 1", value)
        fits = self.head_std is None or self.head_std > 0
        require(fits, "objective.head_std", "above 0, or null", self.head_std)
        for name in ("token_weight", "network_weight", "mask_std"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name}", "0 or more", value)
        require(self.epsilon > 0, "objective.epsilon", "above 0", self.epsilon)


class Embedded(NamedTuple):
    """Unit vectors of a view."""

    window: Tensor
    """[B Z]"""
    tokens: Tensor
    """[B U C Z]"""
    cells: Tensor
    """[B C Z]"""


class Student(nn.Module):
    """Encoder, mask vector, and one head for all embeddings.

    Parameters
    ----------
    encoder : TokenTransformer
    config : DistillConfig
    """

    def __init__(self, encoder: TokenTransformer, config: DistillConfig) -> None:
        super().__init__()
        width = encoder.config.width
        self.encoder, self.summary, self.centre = encoder, config.summary, config.centre
        self.gather = None
        if config.summary == "cells":
            size = encoder.grid.n_cells * width
            self.gather = nn.Linear(size, width)
            nn.init.normal_(self.gather.weight, std=size**-0.5)
        self.mask_vector = nn.Parameter(torch.zeros(width))
        if config.mask_std:
            nn.init.normal_(self.mask_vector, std=config.mask_std)
        self.head = nn.Sequential(
            nn.Linear(width, config.head_width),
            nn.GELU(),
            nn.Linear(config.head_width, config.projection),
        )
        for layer in self.head:
            if config.head_std is not None and isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=config.head_std)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: PatchInputs, hidden_BUC: Tensor, *, count: bool = True) -> Embedded:
        """Return the unit vectors of a view.

        With ``count=False``, the batch is a placeholder: it is left out of means over processes.
        """
        x_BUCW = self.encoder.embed(inputs.patches)
        mask_vector = self.mask_vector.to(x_BUCW.dtype)
        x_BUCW = torch.where(hidden_BUC[..., None], mask_vector, x_BUCW)
        encoded = self.encoder(x_BUCW, inputs.static, inputs.times, inputs.host_valid)
        cells_BCW = mean_over_time(encoded.tokens, inputs.valid)
        if self.gather is not None:
            summary_BW: Tensor = self.gather(cells_BCW.flatten(1))
        else:
            summary_BW = encoded.cls if self.summary == "cls" else cells_BCW.mean(1)
        window_BZ = self.head(summary_BW)
        if self.centre:
            window_BZ = centred(window_BZ, count=count)
        return Embedded(_unit(window_BZ), self._project(encoded.tokens), self._project(cells_BCW))

    def _project(self, x: Tensor) -> Tensor:
        return _unit(self.head(x))


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
