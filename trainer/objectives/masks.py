"""What is hidden and what is shown: pure functions of each window's own random number."""

# B windows, U patches, C cells, N visible tokens of a window, M chosen cells

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Visible", "generator_of", "random_visible", "tube_cells", "tube_visible"]


class Visible(NamedTuple):
    """The tokens of each window that an encoder sees."""

    patches: Tensor
    """[B N], int64"""
    cells: Tensor
    """[B N], int64"""
    keep: Tensor | None
    """False where a window has fewer of them than others [B N], bool; None if none has"""


def generator_of(draw: int, purpose: int = 0) -> np.random.Generator:
    """Return the random numbers of one window, a stream of its own for each purpose."""
    return np.random.Generator(np.random.Philox(key=draw, counter=purpose << 192))


def tube_cells(draws: Tensor, *, n_cells: int, n_chosen: int) -> Tensor:
    """Choose cells of each window, for all of its patches.

    Parameters
    ----------
    draws : torch.Tensor of shape (B,), int64
        Each window's random number.
    n_cells, n_chosen : int

    Returns
    -------
    torch.Tensor of shape (B, n_chosen), int64
        Cells, in ascending order.
    """
    chosen = [
        np.sort(generator_of(draw).permutation(n_cells)[:n_chosen]) for draw in draws.tolist()
    ]
    return torch.from_numpy(np.stack(chosen)).to(draws.device)


def tube_visible(
    draws: Tensor, valid_BU: Tensor | None, *, n_patches: int, n_cells: int, n_shown: int
) -> Visible:
    """Show the same cells in all patches of a window."""
    cells_BM = tube_cells(draws, n_cells=n_cells, n_chosen=n_shown)
    patches_N = torch.arange(n_patches, device=draws.device).repeat_interleave(n_shown)
    keep_BN = None if valid_BU is None else valid_BU.repeat_interleave(n_shown, dim=1)
    return Visible(patches_N.expand(len(draws), -1), cells_BM.repeat(1, n_patches), keep_BN)


def random_visible(
    draws: Tensor, valid_BU: Tensor | None, *, n_patches: int, n_cells: int, share: float
) -> Visible:
    """Show a share of the tokens of each window, anywhere."""
    n_valid = np.full(len(draws), n_patches)
    if valid_BU is not None:
        n_valid = valid_BU.sum(1).cpu().numpy()
    n_shown = np.clip((share * n_valid * n_cells).astype(int), 1, n_valid * n_cells - 1)
    tokens_BN = np.zeros((len(draws), n_shown.max()), dtype=np.int64)
    for row, draw, tokens, shown in zip(
        tokens_BN, draws.tolist(), n_valid * n_cells, n_shown, strict=True
    ):
        row[:shown] = np.sort(generator_of(draw).permutation(tokens)[:shown])
    chosen = torch.from_numpy(tokens_BN).to(draws.device)
    keep_BN = None
    if (n_shown < n_shown.max()).any():
        keep_BN = torch.from_numpy(np.arange(n_shown.max()) < n_shown[:, None]).to(draws.device)
    return Visible(chosen // n_cells, chosen % n_cells, keep_BN)
