"""The network of self-distillation: an encoder with a head; the teacher is a copy of it."""

# B windows, U patches, C cells, W model width, Z features of an embedding

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.model.inputs import PatchInputs
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.coding_rate import centred

__all__ = ["Embedded", "Student", "Summary"]

Summary = Literal["cls", "mean", "cells"]


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
    summary : {"cls", "mean", "cells"}
        Embed CLS, the mean of the tokens, or the means of each cell's tokens over time, side by
        side.
    centre : bool
        Subtract the mean over the batch from the embeddings of windows.
    head_width, projection : int
        Hidden and final width of the head.
    head_std : float, optional
        Standard deviation of the head's weights at the start (truncated normal, biases 0). None:
        those of torch's layers.
    mask_std : float
        Standard deviation of the mask vector at the start.
    """

    def __init__(
        self,
        encoder: TokenTransformer,
        *,
        summary: Summary,
        centre: bool,
        head_width: int,
        projection: int,
        head_std: float | None = None,
        mask_std: float = 0.0,
    ) -> None:
        super().__init__()
        width = encoder.config.width
        self.encoder, self.summary, self.centre = encoder, summary, centre
        self.gather = None
        if summary == "cells":
            size = encoder.grid.n_cells * width
            self.gather = nn.Linear(size, width)
            nn.init.normal_(self.gather.weight, std=size**-0.5)
        self.mask_vector = nn.Parameter(torch.zeros(width))
        if mask_std:
            nn.init.normal_(self.mask_vector, std=mask_std)
        self.head = nn.Sequential(
            nn.Linear(width, head_width), nn.GELU(), nn.Linear(head_width, projection)
        )
        for layer in self.head:
            if head_std is not None and isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=head_std)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: PatchInputs, hidden_BUC: Tensor, *, count: bool = True) -> Embedded:
        """Return the unit vectors of a view.

        With ``count=False``, the batch is a placeholder: it is left out of means over processes.
        """
        x_BUCW = self.encoder.embed(inputs.patches)
        mask_vector = self.mask_vector.to(x_BUCW.dtype)
        x_BUCW = torch.where(hidden_BUC[..., None], mask_vector, x_BUCW)
        encoded = self.encoder(x_BUCW, inputs.static, inputs.times, inputs.host_valid)
        if inputs.valid is None:
            cells_BCW = encoded.tokens.mean(1)
        else:
            weight_BU11 = inputs.valid[:, :, None, None].to(encoded.tokens.dtype)
            cells_BCW = (encoded.tokens * weight_BU11).sum(1) / weight_BU11.sum(1)
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
