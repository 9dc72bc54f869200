"""Masking: options, and masks that depend only on each window's random number.

All of it is computed on the host, and sent to the device when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmritok.device import send
from fmritok.errors import expected
from fmritok.trainer.config import ObjectiveConfig, require
from fmritok.trainer.errors import TrainingError

__all__ = [
    "MaskingConfig", "Visible", "generator_of", "hidden_tokens", "kept_rows", "random_visible",
    "refuse_single_cell", "tube_cells", "tube_visible",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(ObjectiveConfig):
    """Options of objectives that hide tokens and predict them.

    Attributes
    ----------
    mask_ratio : float
        Share of the tokens that is hidden.
    masking : {"tube", "random"}
        Hide the same cells in all patches, or patches anywhere.
    chunk : int
        Number of tokens that are predicted at a time. Smaller values need less memory.
    """

    mask_ratio: float = 0.5
    masking: Literal["tube", "random"] = "tube"
    chunk: int = 4096

    def __post_init__(self) -> None:
        fits = 0 < self.mask_ratio < 1
        require(fits, "objective.mask_ratio", "above 0 and below 1", self.mask_ratio)
        require(self.chunk >= 1, "objective.chunk", "1 or more", self.chunk)


def refuse_single_cell(objective: str, n_cells: int) -> None:
    """Refuse tokens of a single cell: none would stay visible.

    Raises
    ------
    TrainingError
    """
    if n_cells < 2:
        raise TrainingError(
            expected("Objective", objective, "a token group with 2 or more tokens per frame",
                     n_cells, "Train on another group with --group NAME.")
        )  # fmt: skip


class Visible(NamedTuple):
    """The tokens of each window that an encoder sees."""

    patches: Tensor
    """[B N], int64"""
    cells: Tensor
    """[B N], int64"""
    keep: Tensor | None
    """False for padding of windows with fewer tokens [B N], bool; None without padding"""


def generator_of(draw: int, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of one window for one purpose."""
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
    return torch.from_numpy(np.stack(chosen))


def tube_visible(
    draws: Tensor, valid_BU: Tensor | None, *, n_patches: int, n_cells: int, n_shown: int
) -> Visible:
    """Show the same cells in all patches of a window."""
    cells_BN = tube_cells(draws, n_cells=n_cells, n_chosen=n_shown)
    patches_N = torch.arange(n_patches).repeat_interleave(n_shown)
    keep_BN = None if valid_BU is None else valid_BU.repeat_interleave(n_shown, dim=1)
    return Visible(patches_N.expand(len(draws), -1), cells_BN.repeat(1, n_patches), keep_BN)


def random_visible(
    draws: Tensor,
    valid_BU: Tensor | None,
    *,
    n_patches: int,
    n_cells: int,
    share: float,
    counted_cells: int | None = None,
) -> Visible:
    """Show a share of the tokens of each window, at random places; at least one stays hidden.

    The share is of ``counted_cells`` cells (default: ``n_cells``).
    """
    n_valid = np.full(len(draws), n_patches)
    if valid_BU is not None:
        n_valid = valid_BU.sum(1).numpy()
    n_shown = (share * (n_valid * (counted_cells or n_cells))).astype(int)
    n_shown = np.clip(n_shown, 1, n_valid * n_cells - 1)
    tokens_BN = np.zeros((len(draws), n_shown.max()), dtype=np.int64)
    for row, draw, tokens, shown in zip(
        tokens_BN, draws.tolist(), n_valid * n_cells, n_shown, strict=True
    ):
        row[:shown] = np.sort(generator_of(draw).permutation(tokens)[:shown])
    chosen = torch.from_numpy(tokens_BN)
    keep_BN = None
    if (n_shown < n_shown.max()).any():
        keep_BN = torch.from_numpy(np.arange(n_shown.max()) < n_shown[:, None])
    return Visible(chosen // n_cells, chosen % n_cells, keep_BN)


def hidden_tokens(
    shown: Visible, valid_BU: Tensor | None, *, n_patches: int, n_cells: int
) -> tuple[Tensor, Tensor | None]:
    """Return the hidden tokens, without padding.

    Returns
    -------
    index : torch.Tensor of shape (B, Q), int64
        Patch times the number of cells, plus cell.
    keep : torch.Tensor of shape (B, Q), bool, or None
        False for padding of windows with fewer tokens; None without padding.
    """
    B = len(shown.cells)
    wanted_BUC = torch.ones(B, n_patches, n_cells, dtype=torch.bool)
    if valid_BU is not None:
        wanted_BUC &= valid_BU[:, :, None]
    flat_BN = shown.patches * n_cells + shown.cells
    seen = torch.zeros(B, n_patches * n_cells, dtype=torch.int64)
    keep_BN = torch.ones_like(flat_BN) if shown.keep is None else shown.keep.long()
    wanted = wanted_BUC.flatten(1) & (seen.scatter_add(1, flat_BN, keep_BN) == 0)
    counts = wanted.sum(1)
    most, least = int(counts.max()), int(counts.min())
    index_BQ = (~wanted).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    keep_BQ = torch.arange(most) < counts[:, None] if least < most else None
    return index_BQ, keep_BQ


def kept_rows(
    x_BQX: Tensor, index_BQ: Tensor, keep_BQ: Tensor | None, per_window: int
) -> tuple[Tensor, Tensor]:
    """Return the tokens that are no padding, one after another, and their numbers in the batch.

    Parameters
    ----------
    x_BQX : torch.Tensor of shape (B, Q, X)
    index_BQ : torch.Tensor of shape (B, Q), int64
        Number of each token in its window.
    keep_BQ : torch.Tensor of shape (B, Q), bool, optional
        False for padding, on the host.
    per_window : int
        Tokens of a window.

    Returns
    -------
    x : torch.Tensor of shape (K, X)
    index : torch.Tensor of shape (K,), int64
    """
    windows_B1 = torch.arange(len(index_BQ), device=index_BQ.device)[:, None]
    x_KX, index_K = x_BQX.flatten(0, 1), (windows_B1 * per_window + index_BQ).flatten()
    if keep_BQ is None:
        return x_KX, index_K
    rows_K = send(keep_BQ.flatten().nonzero()[:, 0], x_BQX.device)
    return x_KX.index_select(0, rows_K), index_K.index_select(0, rows_K)
