"""Errors of the model's and of trivial predictions, without missing features and padded frames.

They are computed in chunks of tokens, because all predictions are several times as large as the
batch.
"""

# B windows, U patches, C cells, P frames of a patch, E features of a cell in a frame, F = P * E,
# K predicted tokens of a batch, W width

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmritok.trainer.config import InputForm
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.inputs import PatchInputs
from fmritok.trainer.model.layout import PatchGrid
from fmritok.trainer.objectives.base import Mean

__all__ = ["PatchTargets", "mean_patches", "prediction_error"]

Error = Literal["l1", "l2"]


class PatchTargets:
    """The patches of a batch as targets, numbered in (window, patch, cell) order.

    Parameters
    ----------
    inputs : PatchInputs
    grid : PatchGrid
    error : {"l1", "l2"}
        Absolute or squared error.
    chunk : int
        Number of tokens that are compared at a time.
    stride : int
        The targets are every ``stride``-th frame of a patch, from its first on: F features of P
        frames.
    """

    def __init__(
        self,
        inputs: PatchInputs,
        grid: PatchGrid,
        *,
        error: Error,
        chunk: int,
        stride: int = 1,
    ) -> None:
        self.error, self.chunk = error, chunk
        self._patches = inputs.patches.flatten(0, 2)
        self._frames = slice(None, None, stride)
        self._weight = inputs.weight
        self._grid = grid
        self.shape = inputs.patches.shape[:3]

    def values(self, index_K: Tensor) -> Tensor:
        """Return the targets [K F]."""
        return self._predicted(self._patches[index_K])

    def _predicted(self, x_KF: Tensor) -> Tensor:
        """Return the frames of patches that are predicted."""
        if self._frames.step == 1:
            return x_KF
        frames_KPE = torch.unflatten(x_KF, -1, (self._grid.layout.patch, -1))
        return frames_KPE[:, self._frames].flatten(1)

    def weight(self, index_K: Tensor) -> Tensor | None:
        """Return 1 for features that exist [K F], float32; None if all do."""
        if self._weight is None and self._grid.complete:
            return None
        n_cells = self._grid.n_cells
        known_KE = self._grid.known[index_K % n_cells].float()
        if self._weight is None:
            frames_KP = known_KE.new_ones(len(index_K), self._grid.layout.patch)
        else:
            frames_KP = self._weight.flatten(0, 1)[index_K // n_cells]
        frames_KP = frames_KP[:, self._frames]
        return (frames_KP[:, :, None] * known_KE[:, None]).flatten(1)

    def compared(self, predicted_KF: Tensor, index_K: Tensor) -> Mean:
        """Return the error of predictions, float32, over features that exist."""
        difference_KF = predicted_KF - self.values(index_K)
        cost_KF = difference_KF.abs() if self.error == "l1" else difference_KF.square()
        weight_KF = self.weight(index_K)
        if weight_KF is None:
            count = torch.full((), float(cost_KF.numel()), device=cost_KF.device)
            return Mean(cost_KF.sum(), count)
        return Mean((cost_KF * weight_KF).sum(), weight_KF.sum())

    def in_chunks(self, part: Callable[..., tuple[Tensor, Tensor]], *rows: Tensor) -> Mean:
        """Sum the means of chunks of rows."""
        total = torch.zeros((), device=rows[0].device)
        count = torch.zeros((), device=rows[0].device)
        n_chunks = -(-len(rows[0]) // self.chunk)
        for chunk in zip(*(each.chunk(n_chunks) for each in rows), strict=True):
            one = part(*chunk)
            total, count = total + one[0], count + one[1]
        return Mean(total, count)

    def mean_token(self, index_K: Tensor, mean_BCF: Tensor | None) -> Mean:
        """Return the error of predicting each token's mean over its run (None: 0)."""
        return self.in_chunks(lambda index: self.compared(self._means(index, mean_BCF), index),
                              index_K)  # fmt: skip

    def last_frame(self, index_K: Tensor, mean_BCF: Tensor | None) -> Mean:
        """Return the error of repeating the last frame before each patch, of the same cell.

        The frame may be hidden from the model; in a hidden tube it always is. For the first patch
        of a window, which has no frame before it, the mean is predicted.
        """
        _, U, C = self.shape
        frames = self._grid.layout.patch

        def part(index_K: Tensor) -> Mean:
            before_KF = self._patches[(index_K - C).clamp_min(0)]
            last_KF = before_KF[:, -(before_KF.shape[1] // frames) :].repeat(1, frames)
            first_K = index_K // C % U == 0
            mean_KF = self._means(index_K, mean_BCF)
            last_KF = torch.where(first_K[:, None], mean_KF, self._predicted(last_KF))
            return self.compared(last_KF, index_K)

        return self.in_chunks(part, index_K)

    def measures(
        self, loss: Mean, index_K: Tensor, batch: Batch, form: InputForm
    ) -> dict[str, Mean]:
        """Return the loss and those of trivial predictions, without gradient."""
        with torch.no_grad():
            mean_BCF = mean_patches(batch, form, self._grid)
            return {
                "loss": Mean(loss.total.detach(), loss.n_values),
                "loss_mean_token": self.mean_token(index_K, mean_BCF),
                "loss_last_frame": self.last_frame(index_K, mean_BCF),
            }

    def _means(self, index_K: Tensor, mean_BCF: Tensor | None) -> Tensor:
        _, U, C = self.shape
        if mean_BCF is None:
            return self._patches.new_zeros(())
        return self._predicted(mean_BCF.flatten(0, 1)[index_K // (U * C) * C + index_K % C])


def prediction_error(head: nn.Module, x_KW: Tensor, index_K: Tensor, targets: PatchTargets) -> Mean:
    """Return the error of the predictions ``head(x)``, computed in chunks.

    Parameters
    ----------
    head : torch.nn.Module
        From W to F.
    x_KW : torch.Tensor of shape (K, W)
    index_K : torch.Tensor of shape (K,), int64
        Number of the patch that each token predicts.
    targets : PatchTargets
    """

    def part(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(targets.compared(head(x).float(), index))  # type: ignore[return-value]

    if len(x_KW) > targets.chunk and torch.is_grad_enabled():
        # Predictions are computed again in the backward pass instead of kept in memory.
        return targets.in_chunks(partial(checkpoint, part, use_reentrant=False), x_KW, index_K)
    return targets.in_chunks(part, x_KW, index_K)


def mean_patches(batch: Batch, form: InputForm, grid: PatchGrid) -> Tensor | None:
    """Return the run's mean as patches in the model's input form [B C F]; None where it is 0."""
    if form != "absolute" or not grid.layout.has_mean:
        return None
    return grid.cells(batch.mean[:, None])[:, 0].repeat(1, 1, grid.layout.patch)
