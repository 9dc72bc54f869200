"""Errors of predictions, and of trivial ones, on features and frames that exist.

They are computed for a chunk of tokens at a time: the predictions are several times as large as the
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
    """The patches of a batch as targets, by their number in (window, patch, cell) order.

    Parameters
    ----------
    inputs : PatchInputs
    grid : PatchGrid
    error : {"l1", "l2"}
        How predictions are compared with them.
    chunk : int
        Tokens that are compared at a time.
    """

    def __init__(self, inputs: PatchInputs, grid: PatchGrid, *, error: Error, chunk: int) -> None:
        self.error, self.chunk = error, chunk
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

    def compared(self, predicted_KF: Tensor, index_K: Tensor) -> Mean:
        """Return the error of predictions, float32, over features that exist."""
        difference_KF = predicted_KF - self.values(index_K)
        cost_KF = difference_KF.abs() if self.error == "l1" else difference_KF.square()
        weight_KF = self.weight(index_K)
        if weight_KF is None:
            count = torch.tensor(cost_KF.numel(), dtype=torch.float32, device=cost_KF.device)
            return Mean(cost_KF.sum(), count)
        return Mean((cost_KF * weight_KF).sum(), weight_KF.sum())

    def in_chunks(self, part: Callable[..., tuple[Tensor, Tensor]], *rows: Tensor) -> Mean:
        """Add up the means of a chunk of each tensor's rows at a time."""
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

        The frame may be hidden from the model: a hidden tube shows none. Then this error uses more
        than the model sees. A window's first patch has no frame before it, and gets its mean.
        """
        _, U, C = self.shape
        frames = self._grid.layout.patch

        def part(index_K: Tensor) -> Mean:
            before_KF = self._patches[(index_K - C).clamp_min(0)]
            last_KF = before_KF[:, -(before_KF.shape[1] // frames) :].repeat(1, frames)
            first_K = index_K // C % U == 0
            mean_KF = self._means(index_K, mean_BCF)
            last_KF = torch.where(first_K[:, None], mean_KF, last_KF)
            return self.compared(last_KF, index_K)

        return self.in_chunks(part, index_K)

    def _means(self, index_K: Tensor, mean_BCF: Tensor | None) -> Tensor:
        _, U, C = self.shape
        if mean_BCF is None:
            return self._patches.new_zeros(())
        return mean_BCF.flatten(0, 1)[index_K // (U * C) * C + index_K % C]


def prediction_error(head: nn.Module, x_KW: Tensor, index_K: Tensor, targets: PatchTargets) -> Mean:
    """Return the error of the predictions ``head(x)``, without ever holding all of them.

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
        # Predictions are made again in the backward pass: cheaper than to keep them all.
        return targets.in_chunks(partial(checkpoint, part, use_reentrant=False), x_KW, index_K)
    return targets.in_chunks(part, x_KW, index_K)


def mean_patches(batch: Batch, form: InputForm, grid: PatchGrid) -> Tensor | None:
    """Return the run's mean as patches in the model's input form [B C F]; None where it is 0."""
    if form != "absolute" or not grid.layout.has_mean:
        return None
    return grid.cells(batch.mean[:, None])[:, 0].repeat(1, 1, grid.layout.patch)
