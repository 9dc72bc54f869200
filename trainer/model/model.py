"""One pre-norm Transformer for the token sequences of any token group."""

# L = R + S (static tokens, form `both`) + N: the whole sequence

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.streaming import Batch
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model.attention import make_norm
from fmritok.trainer.model.blocks import Block, initialise_linears, run_blocks
from fmritok.trainer.model.embeddings import NetworkEmbedding, linear_embedding
from fmritok.trainer.model.inputs import PatchInputs, patch_inputs
from fmritok.trainer.model.layout import PatchGrid, TokenLayout
from fmritok.trainer.model.rotary import N_AXES, rotation

__all__ = ["Encoded", "TokenTransformer"]

_INIT_STD = 0.02
_SPATIAL_STD = 0.3  # beside a content of 1: with 0.02, learning which cell is which takes long


class Encoded(NamedTuple):
    """A window after the last layer."""

    cls: Tensor
    """summary of the window [B W]"""
    registers: Tensor
    """scratch tokens without a meaning of their own [B registers W]"""
    static: Tensor | None
    """the run's mean, seen in the context of the window [B S W]; form ``both`` only, and if no
    patches are chosen"""
    tokens: Tensor
    """every patch [B U C W], or the chosen ones [B N W]"""


class TokenTransformer(nn.Module):
    """An embedding for the group's layout, then layers over CLS, registers, static tokens, patches.

    Every cell has a learned spatial embedding. Time enters by rotation of queries and keys, in
    seconds, with CLS, registers and static tokens at the window's first frame; so do, with
    ``position: space_time``, the cells' centres in millimetres.

    Parameters
    ----------
    config : ModelConfig
    layout : TokenLayout

    Raises
    ------
    ConfigError
        If places in space are asked for, and the tokens' are not known.
    """

    def __init__(self, config: ModelConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.config = config = _with_position(config, layout)
        self.grid = PatchGrid(layout)
        width = config.width
        self.embedding: nn.Module
        if layout.kind == "network":
            self.embedding = NetworkEmbedding(layout, width)
        else:
            self.embedding = linear_embedding(self.grid.n_features, width, norm=config.input_norm)
        static = config.input == "both" and layout.has_mean
        # The mean's features differ in scale by orders of magnitude, so they are always normed.
        self.static_embedding = linear_embedding(layout.dim, width, norm=True) if static else None
        self.static_kind = nn.Parameter(torch.zeros(width)) if static else None
        self.spatial = nn.Parameter(torch.empty(self.grid.n_cells, width))
        self.prefix = nn.Parameter(torch.empty(1 + config.registers, width))
        self.embedding_norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = make_norm(config, width) if config.final_norm else nn.Identity()
        initialise_linears(self, config.layers)
        nn.init.normal_(self.spatial, std=_SPATIAL_STD)
        nn.init.normal_(self.prefix, std=_INIT_STD)

    def inputs(self, batch: Batch) -> PatchInputs:
        """Turn a batch into the patches that :meth:`embed` takes."""
        return patch_inputs(batch, self.config, self.grid)

    def embed(self, x_BUCF: Tensor) -> Tensor:
        """Embed patches, without any position yet [B U C W]: an objective may replace some.

        A linear embedding takes any chosen patches, too: [B N F] to [B N W].
        """
        x_BUCW: Tensor = self.embedding(x_BUCF)
        return x_BUCW

    def forward(
        self,
        x_BUCW: Tensor,
        static_BSD: Tensor | None,
        times_BU: Tensor,
        valid_BU: Tensor | None = None,
        wanted_BN: Tensor | None = None,
    ) -> Encoded:
        """Encode embedded windows.

        Parameters
        ----------
        x_BUCW : torch.Tensor of shape (B, U, C, W)
            From :meth:`embed`.
        static_BSD : torch.Tensor of shape (B, S, D), float32, optional
            The run's mean; required by the form ``both``.
        times_BU : torch.Tensor of shape (B, U), float32
            Seconds from the window's first frame to the patch's.
        valid_BU : torch.Tensor of shape (B, U), bool, optional
            False in padded patches; None if there is no padding.
        wanted_BN : torch.Tensor of shape (B, N), int64, optional
            The patches that are asked for, by their number in (patch, cell) order: all are seen,
            but the last layer computes these alone, and CLS and registers.
        """
        B, U, C, _ = x_BUCW.shape
        cells_BN = torch.arange(C, device=x_BUCW.device).repeat(B, U)
        encoded = self._encode(
            (x_BUCW + self.spatial).flatten(1, 2),
            static_BSD,
            self.grid.places(times_BU.repeat_interleave(C, dim=1), cells_BN),
            None if valid_BU is None else valid_BU.repeat_interleave(C, dim=1),
            wanted_BN,
        )
        if wanted_BN is not None:
            return encoded
        return encoded._replace(tokens=torch.unflatten(encoded.tokens, 1, (U, C)))

    def encode_chosen(
        self,
        x_BNW: Tensor,
        cells_BN: Tensor,
        static_BSD: Tensor | None,
        times_BN: Tensor,
        keep_BN: Tensor | None,
    ) -> Encoded:
        """Encode some patches of each window alone, as if there were no others.

        Parameters
        ----------
        x_BNW : torch.Tensor of shape (B, N, W)
            From :meth:`embed`.
        cells_BN : torch.Tensor of shape (B, N), int64
        static_BSD : torch.Tensor of shape (B, S, D), float32, optional
        times_BN : torch.Tensor of shape (B, N), float32
        keep_BN : torch.Tensor of shape (B, N), bool, optional
            False where a window has fewer patches than others.
        """
        places_BNA = self.grid.places(times_BN, cells_BN)
        return self._encode(x_BNW + self.spatial[cells_BN], static_BSD, places_BNA, keep_BN)

    def _encode(
        self,
        x_BNW: Tensor,
        static_BSD: Tensor | None,
        places_BNA: Tensor,
        keep_BN: Tensor | None,
        wanted_BN: Tensor | None = None,
    ) -> Encoded:
        B, prefix = len(x_BNW), len(self.prefix)
        parts, places = [self.prefix.expand(B, -1, -1)], [places_BNA.new_zeros(B, prefix, N_AXES)]
        if self.static_embedding is not None:
            parts += [self.static_embedding(static_BSD) + self.spatial + self.static_kind]
            places += [F.pad(self.grid.coordinates, (1, 0)).expand(B, -1, -1)]
        timeless = sum(part.shape[1] for part in parts)
        x_BLW = self.embedding_norm(torch.cat([*parts, x_BNW], dim=1))
        by = rotation(torch.cat([*places, places_BNA], dim=1), self.config)
        keep_BL = None if keep_BN is None else F.pad(keep_BN, (timeless, 0), value=True)
        if wanted_BN is not None:
            before_BR = torch.arange(prefix, device=x_BLW.device).expand(B, -1)
            wanted_BN, timeless = torch.cat([before_BR, wanted_BN + timeless], dim=1), prefix
        x_BLW = run_blocks(self.blocks, x_BLW, by, keep_BL, self.config, wanted_BN=wanted_BN)
        x_BLW = self.final_norm(x_BLW)
        return Encoded(
            cls=x_BLW[:, 0],
            registers=x_BLW[:, 1:prefix],
            static=x_BLW[:, prefix:timeless] if timeless > prefix else None,
            tokens=x_BLW[:, timeless:],
        )


def _with_position(config: ModelConfig, layout: TokenLayout) -> ModelConfig:
    """Choose what ``auto`` stands for.

    Flat maps have a hundred cells, and each is told best by those beside it. An autoencoder's 27
    cells lie 64 mm apart, and a network all over the brain: there it did not help.
    """
    if config.position == "auto":
        near = layout.kind == "flatmap" and layout.coordinates is not None
        return replace(config, position="space_time" if near else "time")
    if config.position == "space_time" and layout.coordinates is None:
        raise ConfigError(
            expected("Option", "model.position", "one that needs no coordinates of tokens, which "
                     "these do not have", config.position, "Choose time.")
        )  # fmt: skip
    return config
