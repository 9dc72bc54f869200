"""Masked-token modelling: hide cells in all frames, predict their tokens.

After TABLeT (Kim et al., arXiv 2604.03619), which follows SimMIM: half of the cells are hidden as
tubes through time, and one linear layer predicts their tokens under an L1 loss.
"""

# B windows, T frames, S tokens of a frame (cells), M masked cells, D features, W model width

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fmritok.pipeline.errors import expected
from fmritok.trainer.config import ObjectiveConfig
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.inputs import model_inputs
from fmritok.trainer.model import TokenTransformer
from fmritok.trainer.objectives import Mean, ObjectiveOutput
from fmritok.trainer.streaming import Batch

__all__ = ["MaskedTokenModelling", "tube_cells"]


class MaskedTokenModelling(nn.Module):
    """Tube masking, one learned mask vector, a linear head, L1 on the hidden tokens.

    The mask vector takes the place of a hidden token's embedding, and the whole sequence goes
    through the encoder. Targets are tokens in the model's own input form. In the form ``both`` the
    static token of a hidden cell stays visible: where a cell is on average is not what is asked.

    Figures reported beside ``loss``:

    - ``loss_mean_token``: the same loss of the trivial prediction, each token's mean over its run
      (which is 0 in the forms ``residual`` and ``both``).
    - ``residual_loss``: L1 on what changes over time alone, in the run's standard deviations:
      prediction and target each without their mean over the window; features that never move
      left out. ``residual_loss_mean_token``: the same of the trivial prediction.

    Parameters
    ----------
    encoder : TokenTransformer
    config : ObjectiveConfig
    n_tokens, dim : int
    """

    def __init__(
        self, encoder: TokenTransformer, config: ObjectiveConfig, *, n_tokens: int, dim: int
    ) -> None:
        super().__init__()
        if n_tokens < 2:
            raise TrainingError(
                expected("Objective", "mtm", "a token group with 2 or more tokens per frame",
                         n_tokens, "Train on another group with --group NAME.")
            )  # fmt: skip
        self.encoder = encoder
        self.n_masked = min(max(int(config.mask_ratio * n_tokens + 0.5), 1), n_tokens - 1)
        self.mask_vector = nn.Parameter(torch.zeros(encoder.config.width))
        # Starts by predicting 0: the mean token, in the residual forms.
        self.head = nn.Linear(encoder.config.width, dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, *, measure: bool = False) -> ObjectiveOutput:
        """Return the loss of a batch, and with ``measure`` the figures beside it."""
        inputs = model_inputs(batch, self.encoder.config.input)
        S = inputs.frames.shape[2]
        cells_BM = tube_cells(batch.draws, n_tokens=S, n_masked=self.n_masked)
        hidden_BS = torch.zeros(len(cells_BM), S, dtype=torch.bool, device=cells_BM.device)
        hidden_BS = hidden_BS.scatter(1, cells_BM, True)

        x_BTSW = self.encoder.embed(inputs.frames)
        mask_vector = self.mask_vector.to(x_BTSW.dtype)
        x_BTSW = torch.where(hidden_BS[:, None, :, None], mask_vector, x_BTSW)
        encoded = self.encoder(x_BTSW, inputs.static, batch.times, batch.valid)
        predicted_BTMD = self.head(_take(encoded.frames, cells_BM)).float()
        target_BTMD = _take(inputs.frames, cells_BM)

        valid_BT = batch.valid
        if valid_BT is None:
            valid_BT = torch.ones_like(batch.times, dtype=torch.bool)
        weight_BT11 = valid_BT[:, :, None, None].float()
        count = weight_BT11.sum() * target_BTMD[0, 0].numel()
        loss = ((predicted_BTMD - target_BTMD).abs() * weight_BT11).sum() / count
        measures = {}
        if measure:
            with torch.no_grad():
                measures = self._measure(batch, cells_BM, predicted_BTMD, target_BTMD, weight_BT11)
            measures["loss"] = Mean(loss.detach() * count, count)
        return ObjectiveOutput(loss, measures)

    def _measure(
        self,
        batch: Batch,
        cells_BM: Tensor,
        predicted_BTMD: Tensor,
        target_BTMD: Tensor,
        weight_BT11: Tensor,
    ) -> dict[str, Mean]:
        std_B1MD = _take(batch.std[:, None], cells_BM)
        moving_B1MD = (std_B1MD > 0).float()
        if self.encoder.config.input == "absolute":
            unit = torch.where(std_B1MD > 0, 1 / std_B1MD, 0.0)
            mean_token = _take(batch.mean[:, None], cells_BM)
        else:
            unit, mean_token = moving_B1MD, torch.zeros_like(std_B1MD)
        n_frames_B111 = weight_BT11.sum(1, keepdim=True)

        def changes(x_BTMD: Tensor) -> Tensor:
            mean_B1MD = (x_BTMD * weight_BT11).sum(1, keepdim=True) / n_frames_B111
            return (x_BTMD - mean_B1MD) * unit * weight_BT11

        moved = changes(target_BTMD)
        missed = changes(predicted_BTMD) - moved
        count = weight_BT11.sum() * target_BTMD[0, 0].numel()
        count_moving = (n_frames_B111 * moving_B1MD).sum()
        return {
            "loss_mean_token": Mean(((target_BTMD - mean_token).abs() * weight_BT11).sum(), count),
            "residual_loss": Mean(missed.abs().sum(), count_moving),
            "residual_loss_mean_token": Mean(moved.abs().sum(), count_moving),
        }


def tube_cells(draws: Tensor, *, n_tokens: int, n_masked: int) -> Tensor:
    """Choose which cells of each window are hidden in all frames; a pure function of the draws.

    Parameters
    ----------
    draws : torch.Tensor of shape (B,), int64
        Each window's random number.
    n_tokens, n_masked : int

    Returns
    -------
    torch.Tensor of shape (B, n_masked), int64
        Cells, in ascending order.
    """
    chosen = [
        np.sort(np.random.Generator(np.random.Philox(key=draw)).permutation(n_tokens)[:n_masked])
        for draw in draws.tolist()
    ]
    return torch.from_numpy(np.stack(chosen)).to(draws.device)


def _take(x_BTSX: Tensor, cells_BM: Tensor) -> Tensor:
    """Return the given cells of each window [B T M X]."""
    B, T, _, X = x_BTSX.shape
    return x_BTSX.gather(2, cells_BM[:, None, :, None].expand(B, T, -1, X))
