"""Positions: rotation by seconds, millimetres or numbers; fixed sine-cosine of numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fmritok.trainer.config import ModelConfig

__all__ = ["N_AXES", "Rotation", "rotate", "rotation", "sine_cosine", "start_offsets"]

N_AXES = 4
_NOT_ROTATED = ("none", "learned", "sincos")
#: Of the frequencies of numbers.
_BASE = 10_000.0
#: Millimetres: twice the distance of neighbouring cells to twice the length of a brain.
_WAVELENGTHS = (40.0, 300.0)


class Rotation(NamedTuple):
    """Cosine and sine of each token's rotation angles."""

    cos: Tensor
    """[B 1 L J/2], float32"""
    sin: Tensor
    """[B 1 L J/2], float32"""


def rotation(positions_BLA: Tensor, config: ModelConfig) -> Rotation | None:
    """Compute rotation angles from positions; every axis has feature pairs of its own.

    Parameters
    ----------
    positions_BLA : torch.Tensor of shape (B, L, 4), float32
        Seconds, then millimetres to the right, anterior and superior; 0 without a position. For
        ``index``, the number of the token instead of seconds.
    config : ModelConfig

    Returns
    -------
    Rotation or None
        None if there is no rotation.
    """
    if config.position in _NOT_ROTATED:
        return None
    if config.position == "index":
        angles_B1LX = _numbered(positions_BLA[..., 0], _head_pairs(config))[:, None]
        return Rotation(angles_B1LX.cos(), angles_B1LX.sin())
    in_time, in_space = _pairs(config)
    parts = [_angles(positions_BLA[..., 0], in_time, (config.min_period, config.max_period))]
    if in_space:
        parts += [
            _angles(x_BL, in_space, _WAVELENGTHS) for x_BL in positions_BLA[..., 1:].unbind(-1)
        ]
    angles_B1LX = torch.cat(parts, dim=-1)[:, None]
    return Rotation(angles_B1LX.cos(), angles_B1LX.sin())


def rotate(x_BHLJ: Tensor, by: Rotation) -> Tensor:
    """Rotate the pairs (j, j + J/2) of each head, in float32."""
    one, other = x_BHLJ.float().chunk(2, dim=-1)
    turned = (one * by.cos - other * by.sin, other * by.cos + one * by.sin)
    return torch.cat(turned, dim=-1).to(x_BHLJ.dtype)


def sine_cosine(count: int, width: int) -> Tensor:
    """Return the fixed embeddings of the numbers from 0 on: sines, then cosines [count width]."""
    angles = _numbered(torch.arange(count), width // 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def start_offsets(config: ModelConfig) -> Tensor | None:
    """Return the initial constants added to queries and keys before the rotation [2 J].

    A constant added to all queries and keys makes rotary attention favour nearby tokens from the
    first step. Without it, attention starts uniform over the window, residuals average to zero, and
    the model needs many steps to find its own frame and the neighbouring cells. Time and space
    have equal weight; adding space does not weaken time. Only positions in seconds have them.
    """
    if config.position in (*_NOT_ROTATED, "index"):
        return None
    pairs = _head_pairs(config)
    in_time, in_space = _pairs(config)
    shares = [(pairs / in_time) ** 0.5] * in_time
    if in_space:
        shares += [(pairs / (3 * in_space)) ** 0.5] * (3 * in_space)
    return (config.locality * torch.tensor(shares)).repeat(2, 2)


def _pairs(config: ModelConfig) -> tuple[int, int]:
    """Return the numbers of feature pairs for time and for each axis of space."""
    pairs = _head_pairs(config)
    in_space = pairs // N_AXES if config.position == "space_time" else 0
    return pairs - 3 * in_space, in_space


def _head_pairs(config: ModelConfig) -> int:
    return config.width // config.heads // 2


def _angles(x_BL: Tensor, pairs: int, periods: tuple[float, float]) -> Tensor:
    """Return 2 pi x / period for log-spaced periods, shortest to longest [B L pairs]."""
    shortest, longest = periods
    steps = torch.linspace(0, 1, pairs, device=x_BL.device, dtype=torch.float32)
    return x_BL[..., None].float() * (2 * math.pi / (shortest * (longest / shortest) ** steps))


def _numbered(numbers_BL: Tensor, pairs: int) -> Tensor:
    """Return number / 10,000^(i / pairs) for each pair i [B L pairs]."""
    steps = torch.arange(pairs, device=numbers_BL.device, dtype=torch.float32) / pairs
    return numbers_BL[..., None].float() * _BASE**-steps
