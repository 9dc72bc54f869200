"""One pre-norm Transformer for the token sequences of any token group."""

# B windows, T frames, S tokens of a frame (cells), D features, W model width, R CLS and registers,
# L = R + S (static tokens, form `both`) + T * S tokens of the whole sequence

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.attention import Attention, Rotation, make_norm, rotation
from fmritok.trainer.config import ModelConfig

__all__ = ["Encoded", "TokenTransformer"]

_INIT_STD = 0.02
_SPATIAL_STD = 0.3  # beside a content of 1: with 0.02, learning which cell is which takes long


class Encoded(NamedTuple):
    """A window after the last layer."""

    cls: Tensor
    """summary of the window [B W]"""
    registers: Tensor
    """scratch tokens without a meaning of their own [B registers W]"""
    static: Tensor | None
    """the run's mean, seen in the context of the window [B S W]; form ``both`` only"""
    frames: Tensor
    """tokens of every frame [B T S W]"""


class Mlp(nn.Module):
    """Two matrices and a nonlinearity, or three with a gate (SwiGLU)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        gates = 2 if config.mlp == "swiglu" else 1
        self.inner = nn.Linear(config.width, gates * config.mlp_width, bias=config.bias)
        self.outer = nn.Linear(config.mlp_width, config.width, bias=config.bias)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Return [B L W]."""
        inner: Tensor = self.inner(x_BLW)
        if self.kind == "swiglu":
            gate, inner = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        else:
            inner = F.gelu(inner) if self.kind == "gelu" else F.relu(inner)
        outer: Tensor = self.outer(inner)
        return outer


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.width)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config, config.width)
        self.mlp = Mlp(config)

    def forward(self, x_BLW: Tensor, by: Rotation | None, keep_BL: Tensor | None) -> Tensor:
        """Return [B L W]."""
        x_BLW = x_BLW + self.attention(self.attention_norm(x_BLW), by, keep_BL)
        x_BLW = x_BLW + self.mlp(self.mlp_norm(x_BLW))
        return x_BLW


class TokenTransformer(nn.Module):
    """Linear embedding, then layers over CLS, registers, static tokens and all frames.

    Every cell has a learned spatial embedding; time enters by rotation of queries and keys, in
    seconds, with CLS, registers and static tokens at the window's first frame.

    Parameters
    ----------
    config : ModelConfig
    n_tokens : int
        Tokens of a frame.
    dim : int
        Features of a token.
    """

    def __init__(self, config: ModelConfig, *, n_tokens: int, dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = _embedding(dim, width, norm=config.input_norm)
        # The mean's features differ in scale by orders of magnitude, so they are always normed.
        self.static_embedding = (
            _embedding(dim, width, norm=True) if config.input == "both" else None
        )
        self.static_kind = nn.Parameter(torch.zeros(width)) if config.input == "both" else None
        self.spatial = nn.Parameter(torch.empty(n_tokens, width))
        self.prefix = nn.Parameter(torch.empty(1 + config.registers, width))
        self.embedding_norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = make_norm(config, width) if config.final_norm else nn.Identity()
        self._initialise()

    def embed(self, frames_BTSD: Tensor) -> Tensor:
        """Embed tokens, without any position yet [B T S W]: an objective may replace some."""
        x_BTSW: Tensor = self.embedding(frames_BTSD)
        return x_BTSW

    def forward(
        self,
        x_BTSW: Tensor,
        static_BSD: Tensor | None,
        times_BT: Tensor,
        valid_BT: Tensor | None = None,
    ) -> Encoded:
        """Encode embedded windows.

        Parameters
        ----------
        x_BTSW : torch.Tensor of shape (B, T, S, W)
            From :meth:`embed`.
        static_BSD : torch.Tensor of shape (B, S, D), float32, optional
            The run's mean; required by the form ``both``.
        times_BT : torch.Tensor of shape (B, T), float32
            Seconds since the window's first frame.
        valid_BT : torch.Tensor of shape (B, T), bool, optional
            False in padded frames; None if there is no padding.
        """
        B, T, S, _ = x_BTSW.shape
        parts = [self.prefix.expand(B, -1, -1), (x_BTSW + self.spatial).flatten(1, 2)]
        if self.static_embedding is not None:
            parts.insert(1, self.static_embedding(static_BSD) + self.spatial + self.static_kind)
        x_BLW = self.embedding_norm(torch.cat(parts, dim=1))
        timeless = x_BLW.shape[1] - T * S

        by = keep_BL = None
        if self.config.position == "time":
            times_BL = F.pad(times_BT.repeat_interleave(S, dim=1), (timeless, 0))
            by = rotation(
                times_BL,
                pairs=self.config.width // self.config.heads // 2,
                min_period=self.config.min_period,
                max_period=self.config.max_period,
            )
        if valid_BT is not None:
            keep_BL = F.pad(valid_BT.repeat_interleave(S, dim=1), (timeless, 0), value=True)
        for block in self.blocks:
            x_BLW = block(x_BLW, by, keep_BL)
        x_BLW = self.final_norm(x_BLW)

        prefix = len(self.prefix)
        return Encoded(
            cls=x_BLW[:, 0],
            registers=x_BLW[:, 1:prefix],
            static=x_BLW[:, prefix:timeless] if self.static_embedding is not None else None,
            frames=x_BLW[:, timeless:].unflatten(1, (T, S)),
        )

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # What adds to the residual stream starts smaller the more layers add to it.
                adds = name.endswith(("attention.output", "mlp.outer"))
                depth = (2 * self.config.layers) ** -0.5 if adds else 1.0
                nn.init.normal_(module.weight, std=depth * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.spatial, std=_SPATIAL_STD)
        nn.init.normal_(self.prefix, std=_INIT_STD)


def _embedding(dim: int, width: int, *, norm: bool) -> nn.Sequential:
    norms = [nn.LayerNorm(dim)] if norm else []
    return nn.Sequential(*norms, nn.Linear(dim, width))
