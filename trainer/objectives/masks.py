"""Masking: options, and pure functions of each window's own random number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmritok.trainer.config import ObjectiveConfig, require

__all__ = [
    "MaskingConfig", "Visible", "generator_of", "hidden_tokens", "random_visible", "tube_cells",
    "tube_visible",
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
        Tokens that are predicted at a time: smaller values need less memory.
    """

    mask_ratio: float = 0.5
    masking: Literal["tube", "random"] = "tube"
    chunk: int = 4096

    def __post_init__(self) -> None:
        fits = 0 < self.mask_ratio < 1
        require(fits, "objective.mask_ratio", "above 0 and below 1", self.mask_ratio)
        require(self.chunk >= 1, "objective.chunk", "1 or more", self.chunk)


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
    cells_BN = tube_cells(draws, n_cells=n_cells, n_chosen=n_shown)
    patches_N = torch.arange(n_patches, device=draws.device).repeat_interleave(n_shown)
    keep_BN = None if valid_BU is None else valid_BU.repeat_interleave(n_shown, dim=1)
    return Visible(patches_N.expand(len(draws), -1), cells_BN.repeat(1, n_patches), keep_BN)


def random_visible(
    draws: Tensor,
    valid_BU: Tensor | None,
    *,
    n_patches: int,
    n_cells: int,
    share: float,
    stride: int = 1,
) -> Visible:
    """Show a share of the tokens of each window, anywhere.

    At least one token of every ``stride``-th patch stays hidden: something is always predicted.
    """
    n_valid = np.full(len(draws), n_patches)
    if valid_BU is not None:
        n_valid = valid_BU.sum(1).cpu().numpy()
    n_shown = np.clip((share * n_valid * n_cells).astype(int), 1, n_valid * n_cells - 1)
    tokens_BN = np.zeros((len(draws), n_shown.max()), dtype=np.int64)
    for row, draw, tokens, shown in zip(
        tokens_BN, draws.tolist(), n_valid * n_cells, n_shown, strict=True
    ):
        order = generator_of(draw).permutation(tokens)
        predicted = order // n_cells % stride == 0
        if not predicted[shown:].any():
            last = np.flatnonzero(predicted)[-1]
            order[[last, shown]] = order[[shown, last]]
        row[:shown] = np.sort(order[:shown])
    chosen = torch.from_numpy(tokens_BN).to(draws.device)
    keep_BN = None
    if (n_shown < n_shown.max()).any():
        keep_BN = torch.from_numpy(np.arange(n_shown.max()) < n_shown[:, None]).to(draws.device)
    return Visible(chosen // n_cells, chosen % n_cells, keep_BN)


def hidden_tokens(
    shown: Visible, valid_BU: Tensor | None, *, n_patches: int, n_cells: int, stride: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Return the tokens that exist and are not shown: those of every ``stride``-th patch in time.

    Returns
    -------
    index : torch.Tensor of shape (B, Q), int64
        Patch times the number of cells, plus cell.
    keep : torch.Tensor of shape (B, Q), bool, or None
        False where a window has fewer of them than others.
    """
    B, device = len(shown.cells), shown.cells.device
    wanted_BUC = torch.zeros(B, n_patches, n_cells, dtype=torch.bool, device=device)
    wanted_BUC[:, ::stride] = True
    if valid_BU is not None:
        wanted_BUC &= valid_BU[:, :, None]
    flat_BN = shown.patches * n_cells + shown.cells
    seen = torch.zeros(B, n_patches * n_cells, dtype=torch.int64, device=device)
    keep_BN = torch.ones_like(flat_BN) if shown.keep is None else shown.keep.long()
    wanted = wanted_BUC.flatten(1) & (seen.scatter_add(1, flat_BN, keep_BN) == 0)
    counts = wanted.sum(1)
    most, least = int(counts.max()), int(counts.min())
    index_BQ = (~wanted).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    keep_BQ = torch.arange(most, device=device) < counts[:, None] if least < most else None
    return index_BQ, keep_BQ
