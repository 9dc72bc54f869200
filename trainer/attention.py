"""Grouped-query attention with a rotary embedding of time in seconds."""

# B windows, L tokens of a sequence, M tokens attended to, H query heads, G key-value heads,
# K features of a head, P = K / 2 rotated pairs, W model width

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmritok.trainer.backends import Mask, attend
from fmritok.trainer.config import ModelConfig

__all__ = ["Attention", "Context", "Rotation", "make_norm", "rotate", "rotation"]


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles."""

    cos: Tensor
    """[B 1 L P], float32"""
    sin: Tensor
    """[B 1 L P], float32"""


class Context(NamedTuple):
    """Other tokens to attend to, instead of a sequence's own."""

    x: Tensor
    """[B M W]"""
    by: Rotation | None


def rotation(times_BL: Tensor, *, pairs: int, min_period: float, max_period: float) -> Rotation:
    """Turn times into rotation angles, 2 pi t / period, with log-spaced periods.

    Parameters
    ----------
    times_BL : torch.Tensor of shape (B, L), float32
        Seconds; tokens without a time have 0.
    pairs : int
    min_period, max_period : float
        Seconds.
    """
    steps = torch.linspace(0, 1, pairs, device=times_BL.device, dtype=torch.float32)
    periods = min_period * (max_period / min_period) ** steps
    angles = times_BL[:, None, :, None].float() * (2 * math.pi / periods)
    return Rotation(angles.cos(), angles.sin())


def rotate(x_BHLK: Tensor, by: Rotation) -> Tensor:
    """Rotate the pairs (k, k + K/2) of each head, in float32."""
    one, other = x_BHLK.float().chunk(2, dim=-1)
    turned = (one * by.cos - other * by.sin, other * by.cos + one * by.sin)
    return torch.cat(turned, dim=-1).to(x_BHLK.dtype)


class Attention(nn.Module):
    """Attention with shared key-value heads, and optionally normed queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backend = config.attention
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.width // config.heads
        self.query = nn.Linear(config.width, self.heads * self.head_dim, bias=config.bias)
        self.key_value = nn.Linear(
            config.width, 2 * self.kv_heads * self.head_dim, bias=config.bias
        )
        self.output = nn.Linear(self.heads * self.head_dim, config.width, bias=config.bias)
        self.query_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.key_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        # What all queries and keys have in common turns, by rotation, into a preference for tokens
        # near in time. Without one, attention starts uniform over the window, where residuals
        # average out to nothing, and a model needs many steps to find the frame it is in.
        start = torch.full((2, self.head_dim), config.locality)
        self.offsets = nn.Parameter(start) if config.position == "time" else None

    def forward(
        self, x_BLW: Tensor, by: Rotation | None, mask: Mask, context: Context | None = None
    ) -> Tensor:
        """Return the attended sequence [B L W]; without a context it attends to itself."""
        seen = Context(x_BLW, by) if context is None else context
        q_BHLK = self.query(x_BLW).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        kv_BMGK = self.key_value(seen.x).unflatten(-1, (2 * self.kv_heads, self.head_dim))
        k_BGMK, v_BGMK = kv_BMGK.transpose(1, 2).chunk(2, dim=1)
        q_BHLK, k_BGMK = self.query_norm(q_BHLK), self.key_norm(k_BGMK)
        if self.offsets is not None and by is not None and seen.by is not None:
            q_BHLK = rotate(q_BHLK + self.offsets[0], by)
            k_BGMK = rotate(k_BGMK + self.offsets[1], seen.by)
        dtype = v_BGMK.dtype
        x_BHLK = attend(q_BHLK.to(dtype), k_BGMK.to(dtype), v_BGMK, mask, self.backend)
        attended_BLW: Tensor = self.output(x_BHLK.transpose(1, 2).flatten(2))
        return attended_BLW


def make_norm(config: ModelConfig, size: int) -> nn.Module:
    """Return the configured normalisation over the last axis."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(size, eps=1e-6)
    return nn.LayerNorm(size, bias=config.bias)
