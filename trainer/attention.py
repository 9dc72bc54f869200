"""Grouped-query attention with a rotary embedding of time in seconds."""

# B windows, L tokens of a sequence, H query heads, G key-value heads, K features of a head,
# P = K / 2 rotated pairs, W model width

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.config import ModelConfig

__all__ = ["Attention", "Rotation", "attend", "make_norm", "rotate", "rotation"]


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles."""

    cos: Tensor
    """[B 1 L P], float32"""
    sin: Tensor
    """[B 1 L P], float32"""


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


def attend(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, keep_BL: Tensor | None) -> Tensor:
    """Attend over the whole sequence; H / G query heads share each key-value head.

    The one place that knows an attention backend. Dropout, 3-D inputs and repeated keys would all
    silently take torch's quadratic-memory path.

    Parameters
    ----------
    q_BHLK : torch.Tensor of shape (B, H, L, K)
    k_BGLK, v_BGLK : torch.Tensor of shape (B, G, L, K)
    keep_BL : torch.Tensor of shape (B, L), bool, optional
        Tokens that may be attended to; None for all.

    Returns
    -------
    torch.Tensor of shape (B, H, L, K)
    """
    mask = None if keep_BL is None else keep_BL[:, None, None, :]
    grouped = q_BHLK.shape[1] != k_BGLK.shape[1]
    return F.scaled_dot_product_attention(q_BHLK, k_BGLK, v_BGLK, mask, enable_gqa=grouped)


class Attention(nn.Module):
    """Self-attention with shared key-value heads, and optionally normed queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
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

    def forward(self, x_BLW: Tensor, by: Rotation | None, keep_BL: Tensor | None) -> Tensor:
        """Return the attended sequence [B L W]."""
        q_BHLK = self.query(x_BLW).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        kv_BLGK = self.key_value(x_BLW).unflatten(-1, (2 * self.kv_heads, self.head_dim))
        k_BGLK, v_BGLK = kv_BLGK.transpose(1, 2).chunk(2, dim=1)
        q_BHLK, k_BGLK = self.query_norm(q_BHLK), self.key_norm(k_BGLK)
        if self.offsets is not None and by is not None:
            q_BHLK = rotate(q_BHLK + self.offsets[0], by)
            k_BGLK = rotate(k_BGLK + self.offsets[1], by)
        x_BHLK = attend(q_BHLK.to(v_BGLK.dtype), k_BGLK.to(v_BGLK.dtype), v_BGLK, keep_BL)
        attended_BLW: Tensor = self.output(x_BHLK.transpose(1, 2).flatten(2))
        return attended_BLW


def make_norm(config: ModelConfig, size: int) -> nn.Module:
    """Return the configured normalisation over the last axis."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(size, eps=1e-6)
    return nn.LayerNorm(size, bias=config.bias)
