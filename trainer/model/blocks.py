"""Pre-norm layers; running a stack of them with packing or padding and with checkpointing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.model.attention import Attention, Context, make_norm
from fmritok.trainer.model.backends import Mask, Packing
from fmritok.trainer.model.rotary import Rotation

__all__ = ["Block", "Mlp", "initialise_linears", "run_blocks"]

_aten = torch.ops.aten
#: Results that selective checkpointing keeps: for long windows, attention costs the most.
_KEPT = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


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
    """One pre-norm layer with self-attention, or cross-attention to a context.

    Parameters
    ----------
    config : ModelConfig
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.width)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config, config.width)
        self.mlp = Mlp(config)
        # Initial factor of each branch, per feature (layer scale).
        start = torch.full((2, config.width), config.layer_scale)
        self.scales = nn.Parameter(start) if config.layer_scale else None

    def forward(
        self,
        x_BLW: Tensor,
        by: Rotation | None,
        mask: Mask,
        context: Context | None = None,
        wanted_BN: Tensor | None = None,
    ) -> Tensor:
        """Return [B L W]; with ``wanted_BN``, only those tokens [B N W], attending to all."""
        one, other = (1.0, 1.0) if self.scales is None else self.scales
        normed_BLW = self.attention_norm(x_BLW)
        if wanted_BN is not None:
            context = Context(normed_BLW, by)
            x_BLW, normed_BLW = _take(x_BLW, wanted_BN), _take(normed_BLW, wanted_BN)
            by = None if by is None else Rotation(
                *(_take(part[:, 0], wanted_BN)[:, None] for part in by)
            )  # fmt: skip
        x_BLW = x_BLW + one * self.attention(normed_BLW, by, mask, context)
        x_BLW = x_BLW + other * self.mlp(self.mlp_norm(x_BLW))
        return x_BLW


def run_blocks(
    blocks: Iterable[nn.Module],
    x_BLW: Tensor,
    by: Rotation | None,
    keep_BL: Tensor | None,
    config: ModelConfig,
    context: Context | None = None,
    wanted_BN: Tensor | None = None,
) -> Tensor:
    """Run layers over sequences of unequal length.

    Padding tokens are removed (``config.packing``) or masked.

    Parameters
    ----------
    blocks : iterable of Block
    x_BLW : torch.Tensor of shape (B, L, W)
    by : Rotation, optional
    keep_BL : torch.Tensor of shape (B, L), bool, optional
        False for padding. With a context: [B M], the padding of the context. None: no padding.
    config : ModelConfig
    context : Context, optional
    wanted_BN : torch.Tensor of shape (B, N), int64, optional
        Tokens to return. Without packing, the last layer computes only these.

    Returns
    -------
    torch.Tensor of shape (B, L, W), or (B, N, W) of the wanted tokens
        Finite but undefined at padding.
    """
    mask: Mask = keep_BL
    packed = config.packing and keep_BL is not None and context is None
    shape = x_BLW.shape
    if packed and keep_BL is not None:
        mask = Packing(tuple(keep_BL.sum(1).tolist()))
        chosen_N = keep_BL.flatten().nonzero()[:, 0]
        x_BLW = x_BLW.flatten(0, 1)[chosen_N][None]
        if by is not None:
            by = Rotation(*(part.transpose(1, 2).flatten(0, 1)[chosen_N].transpose(0, 1)[None]
                            for part in by))  # fmt: skip
    *first, last = blocks
    for block in first:
        x_BLW = _run(block, config, x_BLW, by, mask, context)
    x_BLW = _run(last, config, x_BLW, by, mask, context, None if packed else wanted_BN)
    if packed:
        empty = x_BLW.new_zeros(shape[0] * shape[1], shape[2])
        x_BLW = empty.index_copy(0, chosen_N, x_BLW[0]).view(shape)
        x_BLW = x_BLW if wanted_BN is None else _take(x_BLW, wanted_BN)
    return x_BLW


def initialise_linears(module: nn.Module, layers: int) -> None:
    """Draw the weights of all linear layers; smaller for outputs added to the residual stream."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            adds = name.endswith(("attention.output", "mlp.outer"))
            depth = (2 * layers) ** -0.5 if adds else 1.0
            nn.init.normal_(part.weight, std=depth * part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _take(x_BLX: Tensor, index_BN: Tensor) -> Tensor:
    """Return the tokens at the given indices [B N X]."""
    return x_BLX.gather(1, index_BN[:, :, None].expand(-1, -1, x_BLX.shape[-1]))


def _run(block: nn.Module, config: ModelConfig, x_BLW: Tensor, *others: Any) -> Tensor:
    out: Tensor
    if config.checkpointing == "none" or not torch.is_grad_enabled():
        out = block(x_BLW, *others)
    elif config.checkpointing == "full":
        out = checkpoint(block, x_BLW, *others, use_reentrant=False)
    else:
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        out = checkpoint(block, x_BLW, *others, use_reentrant=False, context_fn=contexts)
    return out


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
