"""Errors of predicted patches: on features that exist, in frames that exist, a chunk at a time."""

# B windows, U patches, C cells, P frames of a patch, E features of a cell in a frame, F = P * E,
# K predicted tokens of a batch, W width

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmritok.trainer.config import InputForm
from fmritok.trainer.inputs import PatchInputs
from fmritok.trainer.layout import PatchGrid
from fmritok.trainer.objectives import Mean
from fmritok.trainer.streaming import Batch

__all__ = ["PatchTargets", "mean_patches", "prediction_error"]

Error = Literal["l1", "l2"]


class PatchTargets:
    """The patches of a batch as targets, by their number in (window, patch, cell) order.

    Parameters
    ----------
    inputs : PatchInputs
    grid : PatchGrid
    """

    def __init__(self, inputs: PatchInputs, grid: PatchGrid) -> None:
        self._patches = inputs.patches.flatten(0, 2)
        self._weight = inputs.weight
        self._grid = grid
        self.shape = inputs.patches.shape[:3]

    def values(self, index_K: Tensor) -> Tensor:
        """Return the patches [K F]."""
        return self._patches[index_K]

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
        return (frames_KP[:, :, None] * known_KE[:, None]).flatten(1)

    def mean_token(self, index_K: Tensor, mean_BCF: Tensor | None, error: Error) -> Mean:
        """Return the error of predicting each token's mean over its run (None: 0)."""
        target_KF = self.values(index_K)
        if mean_BCF is not None:
            target_KF = target_KF - self._means(index_K, mean_BCF)
        return _weighted(target_KF, self.weight(index_K), error)

    def last_frame(self, index_K: Tensor, mean_BCF: Tensor | None, error: Error) -> Mean:
        """Return the error of repeating the last frame before each patch, of the same cell.

        Whether that frame is shown to the model or not: what is hidden as a tube shows none, so
        that this knows more than the model does. A window's first patch has no frame before it,
        and gets its mean.
        """
        _, U, C = self.shape
        frames = self._grid.layout.patch
        before_KF = self._patches[(index_K - C).clamp_min(0)]
        last_KF = before_KF[:, -(before_KF.shape[1] // frames) :].repeat(1, frames)
        mean_KF = torch.zeros(()) if mean_BCF is None else self._means(index_K, mean_BCF)
        first_K = index_K // C % U == 0
        last_KF = torch.where(first_K[:, None], mean_KF.to(last_KF), last_KF)
        return _weighted(self.values(index_K) - last_KF, self.weight(index_K), error)

    def _means(self, index_K: Tensor, mean_BCF: Tensor) -> Tensor:
        _, U, C = self.shape
        return mean_BCF.flatten(0, 1)[index_K // (U * C) * C + index_K % C]


def prediction_error(
    head: nn.Module,
    x_KW: Tensor,
    index_K: Tensor,
    targets: PatchTargets,
    *,
    error: Error,
    chunk: int,
) -> Mean:
    """Return the error of the predictions ``head(x)``, without ever holding all of them.

    Parameters
    ----------
    head : torch.nn.Module
        From W to F.
    x_KW : torch.Tensor of shape (K, W)
    index_K : torch.Tensor of shape (K,), int64
        Number of the patch that each token predicts.
    targets : PatchTargets
    error : {"l1", "l2"}
    chunk : int
        Tokens that are predicted at a time.
    """

    def part(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        difference = head(x).float() - targets.values(index)
        return tuple(_weighted(difference, targets.weight(index), error))  # type: ignore[return-value]

    several = len(x_KW) > chunk and torch.is_grad_enabled()
    total = torch.zeros((), device=x_KW.device)
    count = torch.zeros((), device=x_KW.device)
    n_chunks = -(-len(x_KW) // chunk)
    for x, index in zip(x_KW.chunk(n_chunks), index_K.chunk(n_chunks), strict=True):
        # Predictions are made again in the backward pass: cheaper than to keep them all.
        one = checkpoint(part, x, index, use_reentrant=False) if several else part(x, index)
        total, count = total + one[0], count + one[1]
    return Mean(total, count)


def mean_patches(batch: Batch, form: InputForm, grid: PatchGrid) -> Tensor | None:
    """Return the run's mean as patches in the model's input form [B C F]; None where it is 0."""
    if form != "absolute" or not grid.layout.has_mean:
        return None
    return grid.cells(batch.mean[:, None])[:, 0].repeat(1, 1, grid.layout.patch)


def _weighted(difference_KF: Tensor, weight_KF: Tensor | None, error: Error) -> Mean:
    cost = difference_KF.abs() if error == "l1" else difference_KF.square()
    if weight_KF is None:
        count = torch.tensor(cost.numel(), dtype=torch.float32, device=cost.device)
        return Mean(cost.sum(), count)
    return Mean((cost * weight_KF).sum(), weight_KF.sum())
