"""Masked-token modelling: hide cells in all frames, predict their tokens.

After TABLeT (Kim et al., arXiv 2604.03619), which follows SimMIM: half of the cells are hidden as
tubes through time, and one linear layer predicts their tokens under an L1 loss.
"""

# B windows, T frames, U patches, C cells, M masked cells, E features of a cell in a frame,
# F features of a patch, W model width, K hidden tokens of a batch

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fmritok.pipeline.errors import expected
from fmritok.trainer.config import ObjectiveConfig
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.inputs import PatchInputs
from fmritok.trainer.model import TokenTransformer
from fmritok.trainer.objectives import Figure, Mean, ObjectiveOutput
from fmritok.trainer.objectives.masks import tube_cells
from fmritok.trainer.objectives.prediction import PatchTargets, mean_patches, prediction_error
from fmritok.trainer.streaming import Batch

__all__ = ["MaskedTokenModelling"]


class MaskedTokenModelling(nn.Module):
    """Tube masking, one learned mask vector, a linear head, L1 on the hidden tokens.

    The mask vector takes the place of a hidden token's embedding, and the whole sequence goes
    through the encoder. Targets are tokens in the model's own input form. In the form ``both`` the
    static token of a hidden cell stays visible: where a cell is on average is not what is asked.

    Figures reported beside ``loss``:

    - ``loss_mean_token``: the same loss of the trivial prediction, each token's mean over its run
      (which is 0 in the forms ``residual`` and ``both``).
    - ``loss_last_frame``: the same loss of repeating the cell's last frame before each patch. It
      is no trivial prediction but an oracle: the model never sees a frame of a hidden cell.
    - ``residual_loss``: L1 on what changes over time alone, in the run's standard deviations:
      prediction and target each without their mean over the window; features that never move
      left out. ``residual_loss_mean_token``: the same of the trivial prediction.

    Parameters
    ----------
    encoder : TokenTransformer
    config : ObjectiveConfig
    """

    figures: ClassVar = (
        Figure("loss", "loss_mean_token", "masked tokens, L1", "mean token"),
        Figure("residual_loss", "residual_loss_mean_token", "time courses alone, L1", "mean token"),
        Figure("loss", "loss_last_frame", "masked tokens, L1", "last frame (oracle)"),
    )

    def __init__(self, encoder: TokenTransformer, config: ObjectiveConfig) -> None:
        super().__init__()
        n_cells = encoder.grid.n_cells
        if n_cells < 2:
            raise TrainingError(
                expected("Objective", "mtm", "a token group with 2 or more tokens per frame",
                         n_cells, "Train on another group with --group NAME.")
            )  # fmt: skip
        self.encoder, self.chunk = encoder, config.chunk
        self.n_masked = min(max(int(config.mask_ratio * n_cells + 0.5), 1), n_cells - 1)
        self.mask_vector = nn.Parameter(torch.zeros(encoder.config.width))
        # Starts by predicting 0: the mean token, in the residual forms.
        self.head = nn.Linear(encoder.config.width, encoder.grid.n_features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

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
        cells_BM = tube_cells(batch.draws, n_cells=C, n_chosen=self.n_masked)
        hidden_BC = torch.zeros(B, C, dtype=torch.bool, device=cells_BM.device)
        hidden_BC = hidden_BC.scatter(1, cells_BM, True)

        x_BUCW = self.encoder.embed(inputs.patches)
        mask_vector = self.mask_vector.to(x_BUCW.dtype)
        x_BUCW = torch.where(hidden_BC[:, None, :, None], mask_vector, x_BUCW)
        patches_U1 = torch.arange(U, device=cells_BM.device)[:, None]
        index_BN = (patches_U1 * C + cells_BM[:, None]).flatten(1)
        encoded = self.encoder(x_BUCW, inputs.static, inputs.times, inputs.valid, index_BN)

        windows_B1 = torch.arange(B, device=cells_BM.device)[:, None]
        index_K = (windows_B1 * (U * C) + index_BN).flatten()
        targets = PatchTargets(inputs, self.encoder.grid)
        x_KW = encoded.tokens.flatten(0, 1)
        loss = prediction_error(self.head, x_KW, index_K, targets, error="l1", chunk=self.chunk)
        measures = {}
        if measure:
            with torch.no_grad():
                mean_BCF = mean_patches(batch, self.encoder.config.input, self.encoder.grid)
                measures = {
                    "loss": Mean(loss.total.detach(), loss.n_values),
                    "loss_mean_token": targets.mean_token(index_K, mean_BCF, "l1"),
                    "loss_last_frame": targets.last_frame(index_K, mean_BCF, "l1"),
                    **self._residual_loss(
                        batch, inputs, torch.unflatten(encoded.tokens, 1, (U, -1)), cells_BM
                    ),
                }
        return ObjectiveOutput(loss, measures)

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def _residual_loss(
        self, batch: Batch, inputs: PatchInputs, x_BUMW: Tensor, cells_BM: Tensor
    ) -> dict[str, Mean]:
        """Compare time courses without their means, a few cells at a time."""
        grid = self.encoder.grid
        std_B1CE = grid.cells(batch.std[:, None])
        B, U = x_BUMW.shape[:2]
        weight_BT11 = torch.ones(B, U * grid.layout.patch, 1, 1, device=x_BUMW.device)
        if inputs.weight is not None:
            weight_BT11 = inputs.weight.flatten(1)[:, :, None, None]
        n_frames_B111 = weight_BT11.sum(1, keepdim=True)
        sums = [torch.zeros((), device=x_BUMW.device) for _ in range(3)]
        n_chunks = -(-B * U * self.n_masked // self.chunk)
        parts = zip(cells_BM.chunk(n_chunks, dim=1), x_BUMW.chunk(n_chunks, dim=2), strict=True)
        for cells_Bm, x_BUmW in parts:
            std_B1mE = _take(std_B1CE, cells_Bm)
            unit = moving = (std_B1mE > 0).float()
            if self.encoder.config.input == "absolute" and grid.layout.has_mean:
                unit = torch.where(std_B1mE > 0, 1 / std_B1mE, 0.0)
            predicted, target = (
                self._changes(x, unit, weight_BT11, n_frames_B111)
                for x in (
                    self.head(x_BUmW).float(),
                    _take(inputs.patches, cells_Bm),
                )
            )
            sums[0] += (predicted - target).abs().sum()
            sums[1] += target.abs().sum()
            sums[2] += (n_frames_B111 * moving).sum()
        return {
            "residual_loss": Mean(sums[0], sums[2]),
            "residual_loss_mean_token": Mean(sums[1], sums[2]),
        }

    def _changes(self, x_BUMF: Tensor, unit: Tensor, weight: Tensor, n_frames: Tensor) -> Tensor:
        """Return time courses without their means over the window [B T M E]."""
        patch = self.encoder.grid.layout.patch
        x_BTME = torch.unflatten(x_BUMF, -1, (patch, -1)).transpose(2, 3).flatten(1, 2)
        mean_B1ME = (x_BTME * weight).sum(1, keepdim=True) / n_frames
        changes_BTME: Tensor = (x_BTME - mean_B1ME) * unit * weight
        return changes_BTME


def _take(x_BUCX: Tensor, cells_BM: Tensor) -> Tensor:
    """Return the given cells of each window [B U M X]."""
    B, U, _, X = x_BUCX.shape
    return x_BUCX.gather(2, cells_BM[:, None, :, None].expand(B, U, -1, X))
