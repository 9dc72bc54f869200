"""Grouped-query attention with rotary positions in time and space."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.model.backends import Plan
from fmritok.trainer.model.rotary import Rotation, rotate, start_offsets

__all__ = ["Attention", "Context", "make_norm"]


class Context(NamedTuple):
    """Keys and values come from these tokens (cross-attention)."""

    x: Tensor
    """[B M W]"""
    by: Rotation | None


class Attention(nn.Module):
    """Attention with shared key-value heads and optional normalisation of queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.width // config.heads
        bias = config.bias and config.qkv_bias
        self.query = nn.Linear(config.width, self.heads * self.head_dim, bias=bias)
        self.key_value = nn.Linear(config.width, 2 * self.kv_heads * self.head_dim, bias=bias)
        self.output = nn.Linear(self.heads * self.head_dim, config.width, bias=config.bias)
        self.query_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.key_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        start = start_offsets(config)
        self.offsets = None if start is None else nn.Parameter(start)

    def forward(
        self, x_BLW: Tensor, by: Rotation | None, plan: Plan, context: Context | None = None
    ) -> Tensor:
        """Return the attended sequence [B L W]; self-attention unless a context is given."""
        seen = Context(x_BLW, by) if context is None else context
        q_BHLJ = self.query(x_BLW).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        kv_BMGJ = self.key_value(seen.x).unflatten(-1, (2 * self.kv_heads, self.head_dim))
        k_BGMJ, v_BGMJ = kv_BMGJ.transpose(1, 2).chunk(2, dim=1)
        q_BHLJ, k_BGMJ = self.query_norm(q_BHLJ), self.key_norm(k_BGMJ)
        if self.offsets is not None:
            q_BHLJ, k_BGMJ = q_BHLJ + self.offsets[0], k_BGMJ + self.offsets[1]
        if by is not None and seen.by is not None:
            q_BHLJ, k_BGMJ = rotate(q_BHLJ, by), rotate(k_BGMJ, seen.by)
        dtype = v_BGMJ.dtype
        x_BHLJ = plan.attend(q_BHLJ.to(dtype), k_BGMJ.to(dtype), v_BGMJ)
        attended_BLW: Tensor = self.output(x_BHLJ.transpose(1, 2).flatten(2))
        return attended_BLW


class RMSNorm(nn.RMSNorm):
    """RMSNorm with the weight cast to the input's dtype: fused kernels need equal dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the input divided by its root mean square, times the weight."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def make_norm(config: ModelConfig, size: int) -> nn.Module:
    """Return the configured normalisation over the last axis."""
    if config.norm == "rmsnorm":
        return RMSNorm(size, eps=config.norm_eps or 1e-6)
    return nn.LayerNorm(size, eps=config.norm_eps or 1e-5, bias=config.bias)
