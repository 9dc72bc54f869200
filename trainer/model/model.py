"""The encoder: one pre-norm Transformer for all token groups."""

# L = R + S (static tokens, form `both`) + N: the whole sequence

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.model.attention import make_norm
from fmritok.trainer.model.blocks import (
    Block,
    initialise_linears,
    initialise_table,
    run_blocks,
)
from fmritok.trainer.model.embeddings import NetworkEmbedding, linear_embedding
from fmritok.trainer.model.inputs import PatchInputs, patch_inputs
from fmritok.trainer.model.layout import PatchGrid, TokenLayout
from fmritok.trainer.model.rotary import N_AXES, rotation, sine_cosine

__all__ = ["EncoderOutput", "TokenTransformer", "add_temporal"]

_TEMPORAL_STD = 0.02
_SPATIAL_STD = 0.3  # inputs are about 1; with 0.02, cells are told apart late in training


class EncoderOutput(NamedTuple):
    """Output of the encoder."""

    cls: Tensor
    """summary of the window [B W]"""
    registers: Tensor
    """register tokens: scratch space of the model [B registers W]"""
    static: Tensor | None
    """static tokens, the run's mean, encoded [B S W]; None in other forms than ``both`` and for
    chosen patches"""
    tokens: Tensor
    """all patches [B U C W], or the chosen ones [B N W]"""


class TokenTransformer(nn.Module):
    """Input embedding, then layers over CLS, registers, static tokens and patches.

    Every cell has a learned spatial embedding. Rotary embedding encodes time in seconds, and with
    ``position: space_time`` also the centres of cells in millimetres. CLS, registers and static
    tokens have the time of the window's first frame. With ``position: learned`` or ``sincos``,
    patches have a learned or fixed embedding of their place in time instead. With ``index``,
    patches are rotated by their number in (patch, cell) order, counted from 1; CLS, registers and
    static tokens have the number 0.

    Parameters
    ----------
    config : ModelConfig
    layout : TokenLayout

    Raises
    ------
    ConfigError
        If ``position`` is ``space_time`` and the tokens have no coordinates, or ``learned`` or
        ``sincos`` and the length of the window is not known.
    """

    temporal: Tensor | None

    def __init__(self, config: ModelConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.config = config = _with_position(config, layout)
        self.grid = PatchGrid(layout)
        width = config.width
        self.embedding: nn.Module
        if layout.kind == "network":
            causal = config.convolution == "causal"
            self.embedding = NetworkEmbedding(layout, width, causal=causal)
        else:
            self.embedding = linear_embedding(self.grid.n_features, width, norm=config.input_norm)
        static = config.input == "both" and layout.has_mean
        # Features of the mean differ in scale by orders of magnitude: always normalise.
        self.static_embedding = linear_embedding(layout.dim, width, norm=True) if static else None
        self.static_kind = nn.Parameter(torch.zeros(width)) if static else None
        self.spatial = None
        if config.cell_embedding:
            self.spatial = nn.Parameter(torch.empty(self.grid.n_cells, width))
        add_temporal(self, config, layout)
        self.prefix = nn.Parameter(torch.empty(1 + config.registers, width))
        self.embedding_norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = make_norm(config, width) if config.final_norm else nn.Identity()
        initialise_linears(self, config)
        if self.spatial is not None:
            initialise_table(self.spatial, config, _SPATIAL_STD)
        if config.init == "xavier":
            initialise_table(self.prefix, config, config.cls_std)
        else:
            nn.init.normal_(self.prefix, std=config.cls_std)

    def inputs(self, batch: Batch) -> PatchInputs:
        """Compute the patches of a batch, the input of :meth:`embed`."""
        return patch_inputs(batch, self.config, self.grid)

    def embed(self, x_BUCF: Tensor) -> Tensor:
        """Embed patches without positions [B U C W]; an objective may then replace some.

        A linear embedding also takes chosen patches: [B N F] to [B N W].
        """
        x_BUCW: Tensor = self.embedding(x_BUCF)
        return F.dropout(x_BUCW, self.config.input_dropout, self.training)

    def forward(
        self,
        x_BUCW: Tensor,
        static_BSD: Tensor | None,
        times_BU: Tensor,
        valid_BU: Tensor | None = None,
        wanted_BN: Tensor | None = None,
    ) -> EncoderOutput:
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
            False in padded patches; None if there is no padding. It is read on the host
            (``PatchInputs.host_valid``); on a GPU, the host waits for the GPU.
        wanted_BN : torch.Tensor of shape (B, N), int64, optional
            Patches to return, numbered in (patch, cell) order. All patches are attended to; the
            last layer computes only these, CLS and registers.
        """
        B, U, C, _ = x_BUCW.shape
        patches_U, cells_C = (torch.arange(n, device=x_BUCW.device) for n in (U, C))
        positions_BNA = self.positions(
            times_BU, patches_U.repeat_interleave(C).expand(B, -1), cells_C.repeat(B, U)
        )
        if self.spatial is not None:
            x_BUCW = x_BUCW + self.spatial
        if self.temporal is not None:
            self.refuse_longer(U)
            x_BUCW = x_BUCW + self.temporal[:U, None]
        encoded = self._encode(
            x_BUCW.flatten(1, 2),
            static_BSD,
            positions_BNA,
            None if valid_BU is None else valid_BU.repeat_interleave(C, dim=1),
            wanted_BN,
        )
        if wanted_BN is not None:
            return encoded
        return encoded._replace(tokens=torch.unflatten(encoded.tokens, 1, (U, C)))

    def encode_chosen(
        self,
        x_BNW: Tensor,
        patches_BN: Tensor,
        cells_BN: Tensor,
        static_BSD: Tensor | None,
        times_BU: Tensor,
        keep_BN: Tensor | None,
    ) -> EncoderOutput:
        """Encode chosen patches of each window without the others.

        Parameters
        ----------
        x_BNW : torch.Tensor of shape (B, N, W)
            From :meth:`embed`.
        patches_BN, cells_BN : torch.Tensor of shape (B, N), int64
            Place of each in time and space.
        static_BSD : torch.Tensor of shape (B, S, D), float32, optional
        times_BU : torch.Tensor of shape (B, U), float32
            Seconds from the window's first frame to each patch's.
        keep_BN : torch.Tensor of shape (B, N), bool, optional
            False for padding, in windows with fewer patches than others. Read on the host.
        """
        positions_BNA = self.positions(times_BU, patches_BN, cells_BN)
        if self.spatial is not None:
            x_BNW = x_BNW + self.spatial[cells_BN]
        if self.temporal is not None:
            self.refuse_longer(times_BU.shape[1])
            x_BNW = x_BNW + self.temporal[patches_BN]
        return self._encode(x_BNW, static_BSD, positions_BNA, keep_BN)

    def positions(self, times_BU: Tensor, patches_BN: Tensor, cells_BN: Tensor) -> Tensor:
        """Return what patches are rotated by: seconds (``index``: number), millimetres [B N 4]."""
        if self.config.position == "index":
            firsts_BN = (1 + patches_BN * self.grid.n_cells + cells_BN).to(times_BU.dtype)
        else:
            firsts_BN = times_BU.gather(1, patches_BN)
        return self.grid.positions(firsts_BN, cells_BN)

    def refuse_longer(self, n_patches: int) -> None:
        """Refuse windows with more patches than there are embeddings of their numbers.

        Raises
        ------
        TrainingError
        """
        if self.temporal is not None and n_patches > len(self.temporal):
            raise TrainingError(
                expected("Window", f"of {counted(n_patches, 'patch')}",
                         f"at most {len(self.temporal)}, the positions in time", n_patches,
                         "Use windows of at most the length of the training's.")
            )  # fmt: skip

    def _encode(
        self,
        x_BNW: Tensor,
        static_BSD: Tensor | None,
        positions_BNA: Tensor,
        keep_BN: Tensor | None,
        wanted_BN: Tensor | None = None,
    ) -> EncoderOutput:
        B, prefix = len(x_BNW), len(self.prefix)
        parts, positions = (
            [self.prefix.expand(B, -1, -1)],
            [positions_BNA.new_zeros(B, prefix, N_AXES)],
        )
        if self.static_embedding is not None:
            static_BSW = self.static_embedding(static_BSD) + self.static_kind
            parts += [static_BSW if self.spatial is None else static_BSW + self.spatial]
            positions += [F.pad(self.grid.coordinates, (1, 0)).expand(B, -1, -1)]
        timeless = sum(part.shape[1] for part in parts)
        x_BLW = self.embedding_norm(torch.cat([*parts, x_BNW], dim=1))
        by = rotation(torch.cat([*positions, positions_BNA], dim=1), self.config)
        keep_BL = None if keep_BN is None else F.pad(keep_BN, (timeless, 0), value=True)
        if wanted_BN is not None:
            before_BR = torch.arange(prefix, device=x_BLW.device).expand(B, -1)
            wanted_BN, timeless = torch.cat([before_BR, wanted_BN + timeless], dim=1), prefix
        x_BLW = run_blocks(self.blocks, x_BLW, by, keep_BL, self.config, wanted_BN=wanted_BN)
        x_BLW = self.final_norm(x_BLW)
        return EncoderOutput(
            cls=x_BLW[:, 0],
            registers=x_BLW[:, 1:prefix],
            static=x_BLW[:, prefix:timeless] if timeless > prefix else None,
            tokens=x_BLW[:, timeless:],
        )


def add_temporal(module: nn.Module, config: ModelConfig, layout: TokenLayout) -> None:
    """Set ``module.temporal``, the embeddings of the patches' numbers [U W].

    They are trained with ``position: learned``, a buffer with ``sincos``, otherwise None.

    Raises
    ------
    ConfigError
        If they are wanted and the length of the window is not known.
    """
    if config.position not in ("learned", "sincos"):
        module.temporal = None  # type: ignore[assignment]
        return
    if layout.window is None:
        raise ConfigError(
            expected("Layout of tokens", f"for model.position = {config.position}",
                     "a length of the window", "none", "Give TokenLayout its window.")
        )  # fmt: skip
    count = -(-layout.window // layout.patch)
    if config.position == "sincos":
        fixed = sine_cosine(count, config.width)
        module.register_buffer("temporal", fixed, persistent=False)
    else:
        module.temporal = nn.Parameter(torch.empty(count, config.width))
        initialise_table(module.temporal, config, _TEMPORAL_STD)


def _with_position(config: ModelConfig, layout: TokenLayout) -> ModelConfig:
    """Replace ``auto`` by ``space_time`` for flat maps, else by ``time``.

    A flat map has about a hundred cells, best predicted from their neighbours. The 27 cells of
    volumes lie 64 mm apart and networks spread over the brain: space did not help there.
    """
    if config.position == "auto":
        near = layout.kind == "flatmap" and layout.coordinates is not None
        return replace(config, position="space_time" if near else "time")
    if config.position == "space_time" and layout.coordinates is None:
        raise ConfigError(
            expected("Option", "model.position", "a position without coordinates, as these "
                     "tokens have none", config.position, "Choose time.")
        )  # fmt: skip
    return config
