"""Masked-token modelling: hide tokens, predict them from the others.

After TABLeT (Kim et al., arXiv 2604.03619), which follows SimMIM: half of the cells are hidden as
tubes through time, and one linear layer predicts their tokens under an L1 loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.model.inputs import PatchInputs
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import Figure, Mean, ObjectiveOutput
from fmritok.trainer.objectives.masks import (
    MaskingConfig,
    hidden_tokens,
    random_visible,
    tube_cells,
)
from fmritok.trainer.objectives.prediction import PatchTargets, mean_patches, prediction_error

__all__ = ["MaskedTokenModelling"]


class MaskedTokenModelling(nn.Module):
    """One learned mask vector, a linear head, L1 on the hidden tokens.

    ``tube`` hides the same cells in all patches, ``random`` hides patches anywhere. The mask vector
    takes the place of a hidden token's embedding, and the whole sequence goes through the encoder.
    Targets are tokens in the model's own input form. In the form ``both`` the static token of a
    hidden cell stays visible: where a cell is on average is not what is asked.

    Figures reported beside ``loss``:

    - ``loss_mean_token``: the same loss of the trivial prediction, each token's mean over its run
      (which is 0 in the forms ``residual`` and ``both``).
    - ``loss_last_frame``: the same loss of repeating the cell's last frame before each patch. It
      is no trivial prediction but an oracle: under ``tube`` the model never sees that frame.
    - ``residual_loss``: L1 on what changes over time alone, in the run's standard deviations:
      prediction and target each without their mean over the cell's hidden frames; features that
      never move left out. ``residual_loss_mean_token``: the same of the trivial prediction.

    Parameters
    ----------
    encoder : TokenTransformer
    config : MaskedTokenModelling.Config
    window : int
        Frames of the windows.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(MaskingConfig):
        """Options of masked-token modelling."""

        name: str = "mtm"

    figures: ClassVar = (
        Figure("loss", "loss_mean_token", "masked tokens, L1", "mean token"),
        Figure("residual_loss", "residual_loss_mean_token", "time courses alone, L1", "mean token"),
        Figure("loss", "loss_last_frame", "masked tokens, L1", "last frame (oracle)"),
    )

    def __init__(self, encoder: TokenTransformer, config: Config, *, window: int) -> None:
        super().__init__()
        n_cells = encoder.grid.n_cells
        if n_cells < 2:
            raise TrainingError(
                expected("Objective", "mtm", "a token group with 2 or more tokens per frame",
                         n_cells, "Train on another group with --group NAME.")
            )  # fmt: skip
        self.encoder, self.config, self.window = encoder, config, window
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
        index_BN, keep_BN = self._hidden(batch.draws, inputs.valid, U, C)
        windows_B1 = torch.arange(B, device=index_BN.device)[:, None]
        hidden_BUC = torch.zeros(B, U, C, dtype=torch.bool, device=index_BN.device)
        hidden_BUC.view(B, -1)[windows_B1, index_BN] = True if keep_BN is None else keep_BN

        x_BUCW = self.encoder.embed(inputs.patches)
        mask_vector = self.mask_vector.to(x_BUCW.dtype)
        x_BUCW = torch.where(hidden_BUC[..., None], mask_vector, x_BUCW)
        encoded = self.encoder(x_BUCW, inputs.static, inputs.times, inputs.valid, index_BN)

        index_K = (windows_B1 * (U * C) + index_BN).flatten()
        x_KW = encoded.tokens.flatten(0, 1)
        if keep_BN is not None:
            index_K, x_KW = index_K[keep_BN.flatten()], x_KW[keep_BN.flatten()]
        targets = PatchTargets(inputs, self.encoder.grid, error="l1", chunk=self.config.chunk)
        loss = prediction_error(self.head, x_KW, index_K, targets)
        measures = {}
        if measure:
            with torch.no_grad():
                mean_BCF = mean_patches(batch, self.encoder.config.input, self.encoder.grid)
                measures = {
                    "loss": Mean(loss.total.detach(), loss.n_values),
                    "loss_mean_token": targets.mean_token(index_K, mean_BCF),
                    "loss_last_frame": targets.last_frame(index_K, mean_BCF),
                    **self._residual_loss(batch, inputs, x_KW, index_K, hidden_BUC),
                }
        return ObjectiveOutput(loss, measures)

    def after_step(self, progress: float) -> None:
        """Do nothing."""

    def _hidden(
        self, draws: Tensor, valid_BU: Tensor | None, U: int, C: int
    ) -> tuple[Tensor, Tensor | None]:
        """Choose what is hidden, as :func:`masks.hidden_tokens` returns it."""
        if self.config.masking == "random":
            share = 1 - self.config.mask_ratio
            shown = random_visible(draws, valid_BU, n_patches=U, n_cells=C, share=share)
            return hidden_tokens(shown, valid_BU, n_patches=U, n_cells=C)
        cells_BN = tube_cells(draws, n_cells=C, n_chosen=self.n_masked)
        patches_U1 = torch.arange(U, device=cells_BN.device)[:, None]
        return (patches_U1 * C + cells_BN[:, None]).flatten(1), None

    def _residual_loss(
        self, batch: Batch, inputs: PatchInputs, x_KW: Tensor, index_K: Tensor, hidden_BUC: Tensor
    ) -> dict[str, Mean]:
        """Compare time courses without their means over hidden frames, a few at a time."""
        grid = self.encoder.grid
        B, U, C = hidden_BUC.shape
        place_BUC = torch.zeros(B * U * C, dtype=torch.int64, device=x_KW.device)
        place_BUC[index_K] = torch.arange(len(index_K), device=x_KW.device)
        place_BUC = place_BUC.view(B, U, C)
        std_BCE = grid.cells(batch.std[:, None])[:, 0]
        sums = [torch.zeros((), device=x_KW.device) for _ in range(3)]
        windows_I, cells_I = hidden_BUC.any(1).nonzero(as_tuple=True)
        n_chunks = -(-len(cells_I) * U // self.config.chunk)
        for b, c in zip(windows_I.chunk(n_chunks), cells_I.chunk(n_chunks), strict=True):
            std_I1E = std_BCE[b, c][:, None]
            unit = moving = (std_I1E > 0).float()
            if self.encoder.config.input == "absolute" and grid.layout.has_mean:
                unit = torch.where(std_I1E > 0, 1 / std_I1E, 0.0)
            weight_IUP = hidden_BUC[b, :, c][..., None].float().expand(-1, -1, grid.layout.patch)
            if inputs.weight is not None:
                weight_IUP = weight_IUP * inputs.weight[b]
            weight_IT1 = weight_IUP.flatten(1)[..., None]
            n_frames_I11 = weight_IT1.sum(1, keepdim=True)
            # What is not hidden has no prediction: any other in its place gets the weight 0.
            predicted, target = (
                self._changes(x_IUF, unit, weight_IT1, n_frames_I11)
                for x_IUF in (self.head(x_KW[place_BUC[b, :, c]]).float(), inputs.patches[b, :, c])
            )
            sums[0] += (predicted - target).abs().sum()
            sums[1] += target.abs().sum()
            sums[2] += (n_frames_I11 * moving).sum()
        return {
            "residual_loss": Mean(sums[0], sums[2]),
            "residual_loss_mean_token": Mean(sums[1], sums[2]),
        }

    def _changes(self, x_IUF: Tensor, unit: Tensor, weight: Tensor, n_frames: Tensor) -> Tensor:
        """Return time courses without their means over the frames that count [I T E]."""
        patch = self.encoder.grid.layout.patch
        x_ITE = torch.unflatten(x_IUF, -1, (patch, -1)).flatten(1, 2)
        mean_I1E = (x_ITE * weight).sum(1, keepdim=True) / n_frames.clamp_min(1)
        changes_ITE: Tensor = (x_ITE - mean_I1E) * unit * weight
        return changes_ITE
