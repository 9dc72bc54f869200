"""Masked autoencoding: encode the visible tokens alone, let a light decoder predict the others.

After MAE (He et al., arXiv 2111.06377) and CortexMAE (Lane et al., arXiv 2510.13768).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fmritok.device import send
from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.config import require
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model.layout import PatchGrid
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import Figure, ObjectiveOutput
from fmritok.trainer.objectives.mae_decoder import Decoder, Place
from fmritok.trainer.objectives.masks import (
    MaskingConfig,
    Visible,
    hidden_tokens,
    kept_rows,
    random_visible,
    refuse_single_cell,
    tube_visible,
)
from fmritok.trainer.objectives.prediction import PatchTargets, prediction_error

__all__ = ["MaskedAutoencoder"]


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder: encode visible tokens, predict the hidden ones (squared error).

    ``tube`` hides the same cells in all patches, ``random`` hides patches anywhere. Every
    ``stride``-th frame of the hidden patches is predicted, in the model's input form. Missing
    features and padded frames are left out.

    Figures reported beside ``loss``:

    - ``loss_mean_token``: the loss of the trivial prediction, each token's mean over its run (0 in
      the forms ``residual`` and ``both``).
    - ``loss_last_frame``: the loss of repeating the cell's last frame before each patch. It is an
      oracle: with ``tube``, this frame is hidden from the model.

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
        mask_ratio_of : {"cells", "grid"}
            Whether ``mask_ratio`` counts the cells with cortex, or all cells of the flat map's
            grid, as CortexMAE does: with 0.9, 48 of its 364 cells with cortex are visible, a tenth
            of 490.
        stride : int
            Predict every ``stride``-th frame of a patch, from its first on.
        decoder : {"self", "cross"}
            Attention of the decoder: among all tokens, or of hidden ones to visible ones.
        decoder_cls : {"encoder", "own"}
            What the decoder sees beside tokens: CLS and registers of the encoder, or a learned
            vector of its own (none with ``decoder: cross``).
        decoder_position : {"all", "hidden"}
            Tokens with a position in the decoder. ``hidden`` needs ``model.position: learned``.
        decoder_width, decoder_layers, decoder_heads : int
            Size of the decoder.
        """

        name: str = "mae"
        mask_ratio_of: Literal["cells", "grid"] = "cells"
        stride: int = 1
        decoder: Literal["self", "cross"] = "self"
        decoder_cls: Literal["encoder", "own"] = "encoder"
        decoder_position: Literal["all", "hidden"] = "all"
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
        Figure("loss", "loss_mean_token", "hidden patches, squared error (SD²)", "mean token"),
        Figure("loss", "loss_last_frame", "hidden patches, squared error (SD²)",
               "last frame (oracle)"),
    )  # fmt: skip

    def __init__(self, encoder: TokenTransformer, config: Config, *, window: int) -> None:
        super().__init__()
        grid = encoder.grid
        refuse_single_cell("mae", grid.n_cells)
        patch = grid.layout.patch
        wanted = f"a divisor of the {counted(patch, 'frame')} of a patch"
        require(patch % config.stride == 0, "objective.stride", wanted, config.stride)
        fits = config.decoder_position == "all" or encoder.config.position == "learned"
        wanted = "all, unless model.position is learned"
        require(fits, "objective.decoder_position", wanted, config.decoder_position)
        self.encoder, self.config, self.window = encoder, config, window
        self.counted_cells = _counted_cells(config, grid)
        self.decoder = Decoder(
            encoder.config, config, grid.layout,
            n_cells=grid.n_cells, n_features=grid.n_features // config.stride,
        )  # fmt: skip

    @property
    def features(self) -> TokenTransformer:
        """The encoder to use after training."""
        return self.encoder

    def forward(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch and, with ``measure``, its measures."""
        inputs = self.encoder.inputs(batch)
        _, U, C, _ = inputs.patches.shape
        device = inputs.patches.device
        shown = self._visible(batch.draws, inputs.host_valid, U, C)
        hidden_BQ, keep_BQ = hidden_tokens(shown, inputs.host_valid, n_patches=U, n_cells=C)
        index_BQ = send(hidden_BQ, device)
        shown = shown._replace(patches=send(shown.patches, device), cells=send(shown.cells, device))
        encoded = self.encoder.encode_chosen(
            self._embed(inputs.patches, shown),
            shown.patches, shown.cells, inputs.static, inputs.times, shown.keep,
        )  # fmt: skip
        before_BRW = None
        if self.config.decoder_cls == "encoder":
            before_BRW = torch.cat([encoded.cls[:, None], encoded.registers], dim=1)
        x_BQO = self.decoder(
            before_BRW,
            encoded.tokens,
            self._place(inputs.times, shown.patches, shown.cells),
            shown.keep,
            self._place(inputs.times, index_BQ // C, index_BQ % C),
            keep_BQ,
        )
        x_KO, index_K = kept_rows(x_BQO, index_BQ, keep_BQ, U * C)
        targets = PatchTargets(
            inputs, self.encoder.grid,
            error="l2", chunk=self.config.chunk, stride=self.config.stride,
        )  # fmt: skip
        loss = prediction_error(self.decoder.head, x_KO, index_K, targets)
        measures = {}
        if measure:
            measures = targets.measures(loss, index_K, batch, self.encoder.config.input)
        return ObjectiveOutput(loss, measures)

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def _visible(self, draws: Tensor, valid_BU: Tensor | None, U: int, C: int) -> Visible:
        share, counted = 1 - self.config.mask_ratio, self.counted_cells
        if self.config.masking == "random":
            return random_visible(
                draws, valid_BU, n_patches=U, n_cells=C, share=share, counted_cells=counted
            )
        n_shown = min(max(int(share * counted), 1), C - 1)
        return tube_visible(draws, valid_BU, n_patches=U, n_cells=C, n_shown=n_shown)

    def _place(self, times_BU: Tensor, patches_BN: Tensor, cells_BN: Tensor) -> Place:
        positions_BNA = self.encoder.positions(times_BU, patches_BN, cells_BN)
        return Place(patches_BN, cells_BN, positions_BNA)

    def _embed(self, patches_BUCF: Tensor, shown: Visible) -> Tensor:
        C = patches_BUCF.shape[2]
        flat_BN = shown.patches * C + shown.cells
        linear = self.encoder.grid.layout.kind != "network"
        x = patches_BUCF if linear else self.encoder.embed(patches_BUCF)
        x_BNX = x.flatten(1, 2).gather(1, flat_BN[:, :, None].expand(-1, -1, x.shape[-1]))
        return self.encoder.embed(x_BNX) if linear else x_BNX


def _counted_cells(config: MaskedAutoencoder.Config, grid: PatchGrid) -> int:
    """Return the number of cells of which ``mask_ratio`` is a share."""
    if config.mask_ratio_of == "cells":
        return int(grid.n_cells)
    rectangle = grid.layout.rectangle
    if rectangle is None:
        raise ConfigError(
            expected("Option", "objective.mask_ratio_of", "cells, as these tokens are no flat map",
                     config.mask_ratio_of, "Leave it out.")
        )  # fmt: skip
    return rectangle
