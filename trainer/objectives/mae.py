"""Masked autoencoding: encode the visible tokens alone, let a light decoder predict the others.

After MAE (He et al., arXiv 2111.06377) and CortexMAE (Lane et al., arXiv 2510.13768).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.trainer.config import ModelConfig, require
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.model.attention import Context, make_norm
from fmritok.trainer.model.blocks import Block, initialise_linears, run_blocks
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.rotary import rotation
from fmritok.trainer.objectives.base import Figure, Mean, ObjectiveOutput
from fmritok.trainer.objectives.masks import (
    MaskingConfig,
    Visible,
    hidden_tokens,
    random_visible,
    tube_visible,
)
from fmritok.trainer.objectives.prediction import PatchTargets, mean_patches, prediction_error

__all__ = ["Decoder", "MaskedAutoencoder"]

_MLP_RATIO = 4


class Decoder(nn.Module):
    """Predicts hidden tokens from encoded visible ones.

    Queries are a learned vector and an embedding of their cell; places enter by rotation. In the
    form ``self`` the visible tokens and the queries attend to one another; in ``cross`` the
    queries attend to the visible tokens alone, and cost no attention among themselves.

    Parameters
    ----------
    model : ModelConfig
        Of the encoder.
    config : MaskedAutoencoder.Config
    n_cells, n_features : int
    """

    def __init__(
        self,
        model: ModelConfig,
        config: MaskedAutoencoder.Config,
        *,
        n_cells: int,
        n_features: int,
    ) -> None:
        super().__init__()
        width, heads = config.decoder_width, config.decoder_heads
        self.config = replace(
            model, width=width, layers=config.decoder_layers, heads=heads, kv_heads=heads,
            mlp_width=_MLP_RATIO * width,
        )  # fmt: skip
        self.kind = config.decoder
        self.entry = nn.Linear(model.width, width)
        self.query = nn.Parameter(torch.zeros(width))
        self.spatial = nn.Parameter(torch.empty(n_cells, width))
        self.blocks = nn.ModuleList(Block(self.config) for _ in range(config.decoder_layers))
        self.norm = make_norm(self.config, width)
        self.head = nn.Linear(width, n_features)
        initialise_linears(self, config.decoder_layers)
        nn.init.normal_(self.spatial)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        x_BNW: Tensor,
        positions_BNA: Tensor,
        keep_BN: Tensor | None,
        cells_BQ: Tensor,
        positions_BQA: Tensor,
        keep_BQ: Tensor | None,
    ) -> Tensor:
        """Return what :attr:`head` turns into the queried patches [B Q O]."""
        N = x_BNW.shape[1]
        x_BNO = self.entry(x_BNW)
        query_BQO = (self.query + self.spatial[cells_BQ]).to(x_BNO.dtype)
        if self.kind == "cross":
            context = Context(x_BNO, rotation(positions_BNA, self.config))
            by_BQ = rotation(positions_BQA, self.config)
            x_BQO = run_blocks(self.blocks, query_BQO, by_BQ, keep_BN, self.config, context)
        else:
            x_BLO = torch.cat([x_BNO, query_BQO], dim=1)
            by_BL = rotation(torch.cat([positions_BNA, positions_BQA], dim=1), self.config)
            keep_BL = None
            if keep_BN is not None or keep_BQ is not None:
                keep_BL = torch.ones(x_BLO.shape[:2], dtype=torch.bool, device=x_BLO.device)
                keep_BL[:, :N] = True if keep_BN is None else keep_BN
                keep_BL[:, N:] = True if keep_BQ is None else keep_BQ
            x_BLO = run_blocks(self.blocks, x_BLO, by_BL, keep_BL, self.config)
            x_BQO = x_BLO[:, N:]
        normed_BQO: Tensor = self.norm(x_BQO)
        return normed_BQO


class MaskedAutoencoder(nn.Module):
    """The encoder sees the visible tokens only; squared error on the hidden ones.

    ``tube`` hides the same cells in all patches, ``random`` hides patches anywhere. Every
    ``stride``-th patch in time is predicted. Targets are patches in the model's input form;
    features that do not exist, and padded frames, count nowhere.

    Figures reported beside ``loss``: ``loss_mean_token``, the same of the trivial prediction, each
    token's mean over its run (which is 0 in the forms ``residual`` and ``both``);
    ``loss_last_frame``, the same of repeating the cell's last frame before each patch, shown or
    not: an oracle, which under ``tube`` sees what the model never does.

    Parameters
    ----------
    encoder : TokenTransformer
    config : MaskedAutoencoder.Config
    window : int
        Frames of the windows.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(MaskingConfig):
        """Options of the masked autoencoder.

        Attributes
        ----------
        stride : int
            Predict every ``stride``-th patch in time.
        decoder : {"self", "cross"}
            Attention of the decoder: among all tokens, or of hidden ones to visible ones.
        decoder_width, decoder_layers, decoder_heads : int
            Size of the decoder.
        """

        name: str = "mae"
        stride: int = 1
        decoder: Literal["self", "cross"] = "self"
        decoder_width: int = 64
        decoder_layers: int = 1
        decoder_heads: int = 2

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("stride", "decoder_width", "decoder_layers", "decoder_heads"):
                value = getattr(self, name)
                require(value >= 1, f"objective.{name}", "1 or more", value)
            fits = self.decoder_width % (2 * self.decoder_heads) == 0
            wanted = f"an even multiple of objective.decoder_heads = {self.decoder_heads}"
            require(fits, "objective.decoder_width", wanted, self.decoder_width)

    figures: ClassVar = (
        Figure("loss", "loss_mean_token", "hidden patches, squared error", "mean token"),
        Figure("loss", "loss_last_frame", "hidden patches, squared error", "last frame (oracle)"),
    )

    def __init__(self, encoder: TokenTransformer, config: Config, *, window: int) -> None:
        super().__init__()
        grid = encoder.grid
        if grid.n_cells < 2:
            raise TrainingError(
                expected("Objective", "mae", "a token group with 2 or more tokens per frame",
                         grid.n_cells, "Train on another group with --group NAME.")
            )  # fmt: skip
        self.encoder, self.config, self.window = encoder, config, window
        shown = int((1 - config.mask_ratio) * grid.n_cells + 1e-6)
        self.n_shown = min(max(shown, 1), grid.n_cells - 1)
        self.decoder = Decoder(
            encoder.config, config, n_cells=grid.n_cells, n_features=grid.n_features
        )

    @property
    def features(self) -> TokenTransformer:
        """The encoder to use after training."""
        return self.encoder

    def forward(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch, and with ``measure`` the figures beside it."""
        inputs = self.encoder.inputs(batch)
        B, U, C, _ = inputs.patches.shape
        shown = self._visible(batch.draws, inputs.valid, U, C)
        times_BN = inputs.times.gather(1, shown.patches)
        x_BNW = self._embed(inputs.patches, shown)
        encoded = self.encoder.encode_chosen(
            x_BNW, shown.cells, inputs.static, times_BN, shown.keep
        )
        index_BQ, keep_BQ = hidden_tokens(
            shown, inputs.valid, n_patches=U, n_cells=C, stride=self.config.stride
        )
        # CLS and registers stand before the visible tokens, at the window's first frame.
        before = torch.cat([encoded.cls[:, None], encoded.registers], dim=1)
        positions_BNA = self.encoder.grid.positions(times_BN, shown.cells)
        keep_BN = None
        if shown.keep is not None:
            keep_BN = F.pad(shown.keep, (before.shape[1], 0), value=True)
        cells_BQ = index_BQ % C
        x_BQO = self.decoder(
            torch.cat([before, encoded.tokens], dim=1),
            F.pad(positions_BNA, (0, 0, before.shape[1], 0)),
            keep_BN,
            cells_BQ,
            self.encoder.grid.positions(inputs.times.gather(1, index_BQ // C), cells_BQ),
            keep_BQ,
        )
        windows_B1 = torch.arange(B, device=index_BQ.device)[:, None]
        index_K = (windows_B1 * (U * C) + index_BQ).flatten()
        x_KO = x_BQO.flatten(0, 1)
        if keep_BQ is not None:
            index_K, x_KO = index_K[keep_BQ.flatten()], x_KO[keep_BQ.flatten()]
        targets = PatchTargets(inputs, self.encoder.grid, error="l2", chunk=self.config.chunk)
        loss = prediction_error(self.decoder.head, x_KO, index_K, targets)
        measures = {}
        if measure:
            with torch.no_grad():
                mean_BCF = mean_patches(batch, self.encoder.config.input, self.encoder.grid)
                measures = {
                    "loss": Mean(loss.total.detach(), loss.n_values),
                    "loss_mean_token": targets.mean_token(index_K, mean_BCF),
                    "loss_last_frame": targets.last_frame(index_K, mean_BCF),
                }
        return ObjectiveOutput(loss, measures)

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def _visible(self, draws: Tensor, valid_BU: Tensor | None, U: int, C: int) -> Visible:
        if self.config.masking == "tube":
            return tube_visible(draws, valid_BU, n_patches=U, n_cells=C, n_shown=self.n_shown)
        return random_visible(
            draws, valid_BU, n_patches=U, n_cells=C,
            share=1 - self.config.mask_ratio, stride=self.config.stride,
        )  # fmt: skip

    def _embed(self, patches_BUCF: Tensor, shown: Visible) -> Tensor:
        C = patches_BUCF.shape[2]
        flat_BN = shown.patches * C + shown.cells
        linear = self.encoder.grid.layout.kind != "network"
        x = patches_BUCF if linear else self.encoder.embed(patches_BUCF)
        x_BNX = x.flatten(1, 2).gather(1, flat_BN[:, :, None].expand(-1, -1, x.shape[-1]))
        return self.encoder.embed(x_BNX) if linear else x_BNX
