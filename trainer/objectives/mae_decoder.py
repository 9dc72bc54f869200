"""Decoder of the masked autoencoder: predicts hidden tokens from encoded visible ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.model.attention import Context, make_norm
from fmritok.trainer.model.blocks import (
    Block,
    initialise_linears,
    initialise_table,
    run_blocks,
)
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import add_temporal
from fmritok.trainer.model.rotary import rotation

if TYPE_CHECKING:
    from fmritok.trainer.objectives.mae import MaskedAutoencoder

__all__ = ["Decoder", "Place"]

_MLP_RATIO = 4


class Place(NamedTuple):
    """Where tokens are."""

    patches: Tensor
    """[B N], int64"""
    cells: Tensor
    """[B N], int64"""
    positions: Tensor
    """seconds and millimetres [B N 4], float32"""


class Decoder(nn.Module):
    """Predicts hidden tokens from encoded visible ones.

    A query is a learned vector plus an embedding of its cell; positions enter by rotation, or as
    learned embeddings of patches. With ``self``, visible tokens and queries attend to one another.
    With ``cross``, queries attend to the visible tokens only, which is cheaper.

    Parameters
    ----------
    model : ModelConfig
        Configuration of the encoder.
    config : MaskedAutoencoder.Config
    layout : TokenLayout
    n_cells, n_features : int
        Cells, and features of a prediction.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: MaskedAutoencoder.Config,
        layout: TokenLayout,
        *,
        n_cells: int,
        n_features: int,
    ) -> None:
        super().__init__()
        self.temporal: Tensor | None
        width, heads = config.decoder_width, config.decoder_heads
        self.config = replace(
            model, width=width, layers=config.decoder_layers, heads=heads, kv_heads=heads,
            mlp_width=_MLP_RATIO * width, drop_path=0.0,
        )  # fmt: skip
        self.kind, self.placed = config.decoder, config.decoder_position
        self.entry = nn.Linear(model.width, width)
        own = config.decoder_cls == "own" and config.decoder == "self"
        self.cls = nn.Parameter(torch.zeros(width)) if own else None
        self.query = nn.Parameter(torch.zeros(width))
        self.spatial = nn.Parameter(torch.empty(n_cells, width))
        add_temporal(self, self.config, layout)
        self.blocks = nn.ModuleList(Block(self.config) for _ in range(config.decoder_layers))
        self.norm = make_norm(self.config, width)
        self.head = nn.Linear(width, n_features)
        initialise_linears(self, self.config)
        initialise_table(self.spatial, self.config, 1.0)
        if model.init == "xavier":
            initialise_table(self.query, self.config, 0.0)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        before_BRW: Tensor | None,
        x_BNW: Tensor,
        place: Place,
        keep_BN: Tensor | None,
        asked: Place,
        keep_BQ: Tensor | None,
    ) -> Tensor:
        """Return the decoded queries [B Q O], the input of :attr:`head`.

        Parameters
        ----------
        before_BRW : torch.Tensor of shape (B, R, W), optional
            CLS and registers of the encoder, with the time of the window's first frame. None: the
            decoder's own CLS, if it has one.
        x_BNW : torch.Tensor of shape (B, N, W)
            Visible tokens, encoded.
        place, asked : Place
            Where these and the queries are.
        keep_BN, keep_BQ : torch.Tensor, bool, optional
            False for padding, on the host.
        """
        x_BNO = self.entry(x_BNW)
        query_BQO = (self.query + self._place(asked)).to(x_BNO.dtype)
        if self.temporal is not None and self.placed == "all":
            x_BNO = x_BNO + self._place(place).to(x_BNO.dtype)
        if before_BRW is not None:
            x_BNO = torch.cat([self.entry(before_BRW), x_BNO], dim=1)
        elif self.cls is not None:
            x_BNO = torch.cat([self.cls.to(x_BNO.dtype).expand(len(x_BNO), 1, -1), x_BNO], dim=1)
        N, prefix = x_BNO.shape[1], x_BNO.shape[1] - x_BNW.shape[1]
        positions_BNA = F.pad(place.positions, (0, 0, prefix, 0))
        keep_BN = None if keep_BN is None else F.pad(keep_BN, (prefix, 0), value=True)
        positions_BQA = asked.positions
        if self.kind == "cross":
            context = Context(x_BNO, rotation(positions_BNA, self.config))
            by_BQ = rotation(positions_BQA, self.config)
            x_BQO = run_blocks(self.blocks, query_BQO, by_BQ, keep_BN, self.config, context)
        else:
            x_BLO = torch.cat([x_BNO, query_BQO], dim=1)
            by_BL = rotation(torch.cat([positions_BNA, positions_BQA], dim=1), self.config)
            keep_BL = None
            if keep_BN is not None or keep_BQ is not None:
                keep_BL = torch.ones(x_BLO.shape[:2], dtype=torch.bool)
                keep_BL[:, :N] = True if keep_BN is None else keep_BN
                keep_BL[:, N:] = True if keep_BQ is None else keep_BQ
            x_BLO = run_blocks(self.blocks, x_BLO, by_BL, keep_BL, self.config)
            x_BQO = x_BLO[:, N:]
        normed_BQO: Tensor = self.norm(x_BQO)
        return normed_BQO

    def _place(self, place: Place) -> Tensor:
        """Return the learned embedding of places [B N O]."""
        x_BNO = self.spatial[place.cells]
        return x_BNO if self.temporal is None else x_BNO + self.temporal[place.patches]
