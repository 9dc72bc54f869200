"""Slices of volumes along three axes, and the tokens that their latents make."""

from __future__ import annotations

import numpy as np
import torch

from fmritok.tokenizers.grid import SHAPE

__all__ = ["latents_from_tokens", "mean_volumes", "slices_of", "tokens_from_latents"]

_EDGE = SHAPE[0]
_AXES = 3
#: Where (frame, slice, row, column) of each slicing axis lie in (frame, ax0, ax1, ax2).
_TO_SLICES = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2))
#: Where (frame, ax0, ax1, ax2, slice in cell, channel) lie in (frame, cell, slice, channel, row,
#: column) of each slicing axis.
_TO_CELLS = ((0, 1, 4, 5, 2, 3), (0, 4, 1, 5, 2, 3), (0, 4, 5, 1, 2, 3))


def slices_of(volumes: torch.Tensor, some: slice = slice(None)) -> list[torch.Tensor]:
    """Return the slices of volumes (n_frames, 96, 96, 96) along each axis, without a copy.

    Returns
    -------
    list of torch.Tensor of shape (n_frames, n_slices, 96, 96)
        By slicing axis.
    """
    return [volumes.permute(order)[:, some] for order in _TO_SLICES]


def mean_volumes(slices: list[torch.Tensor]) -> torch.Tensor:
    """Undo :func:`slices_of`; the mean where the axes differ."""
    total = torch.zeros(len(slices[0]), *SHAPE)
    for values, order in zip(slices, _TO_SLICES, strict=True):
        total += values.permute(_inverse(order))
    return total / _AXES


def tokens_from_latents(latents: torch.Tensor) -> torch.Tensor:
    """Gather the latents of three slicing axes into tokens.

    Parameters
    ----------
    latents : torch.Tensor of shape (3, n_frames, 96, channels, cells, cells)
        By slicing axis, frame and slice. The planes of axis 0 are (ax1, ax2), of axis 1 (ax0, ax2)
        and of axis 2 (ax0, ax1).

    Returns
    -------
    torch.Tensor of shape (n_frames, cells**3, 3 * 96 / cells * channels)
    """
    _, n_frames, edge, channels, cells, _ = latents.shape
    split = latents.reshape(_AXES, n_frames, cells, edge // cells, channels, cells, cells)
    blocks = [block.permute(order) for block, order in zip(split, _TO_CELLS, strict=True)]
    return torch.stack(blocks, dim=4).reshape(n_frames, cells**3, -1)


def latents_from_tokens(tokens: torch.Tensor, channels: int, cells: int) -> torch.Tensor:
    """Undo :func:`tokens_from_latents`."""
    n_frames = len(tokens)
    blocks = tokens.reshape(n_frames, cells, cells, cells, _AXES, _EDGE // cells, channels)
    return torch.stack(
        [
            blocks.select(4, axis)
            .permute(_inverse(order))
            .reshape(n_frames, _EDGE, channels, cells, cells)
            for axis, order in enumerate(_TO_CELLS)
        ]
    )


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(order))
