"""Pre-norm layers with activation checkpointing; a stack of them over packed or padded windows."""

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
from fmritok.trainer.model.backends import Plan
from fmritok.trainer.model.choice import Setting, plan_attention
from fmritok.trainer.model.drop_path import draw_paths, path_shares
from fmritok.trainer.model.packing import Packing
from fmritok.trainer.model.rotary import Rotation

__all__ = ["Block", "Mlp", "initialise_linears", "initialise_table", "run_blocks"]

#: Results that selective checkpointing keeps: for long windows, attention costs the most. By name,
#: because releases of torch differ in them. ``flex`` is kept in compiled layers only.
_KEPT = (
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_flash_attention_forward",
    "aten::_efficient_attention_forward",
    "torch_attn::_varlen_attn",
    "flex_attention",
)

_TABLE_STD = 0.02


class Mlp(nn.Module):
    """Two matrices and a nonlinearity, or three with a gate (SwiGLU)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind, self.dropout = config.mlp, config.mlp_dropout
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
        outer: Tensor = self.outer(F.dropout(inner, self.dropout, self.training))
        return F.dropout(outer, self.dropout, self.training)


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
        self.checkpointing = config.checkpointing

    def forward(
        self,
        x_BLW: Tensor,
        by: Rotation | None,
        plan: Plan,
        context: Context | None = None,
        wanted_BN: Tensor | None = None,
        paths_BL2: Tensor | None = None,
    ) -> Tensor:
        """Return [B L W]; with ``wanted_BN``, only those tokens [B N W], attending to all.

        ``paths_BL2`` are factors of what attention and MLP add to each token. Checkpointing is
        inside: compiled layers then know what to keep, and a divided model (FSDP) does not gather
        weights again for it.
        """

        def layer(x_BLW: Tensor) -> Tensor:
            return self._layer(x_BLW, by, plan, context, wanted_BN, paths_BL2)

        out: Tensor
        if self.checkpointing == "none" or not torch.is_grad_enabled():
            out = layer(x_BLW)
        elif self.checkpointing == "full":
            out = checkpoint(layer, x_BLW, use_reentrant=False)
        else:
            contexts = partial(create_selective_checkpoint_contexts, _policy)
            out = checkpoint(layer, x_BLW, use_reentrant=False, context_fn=contexts)
        return out

    def _layer(
        self,
        x_BLW: Tensor,
        by: Rotation | None,
        plan: Plan,
        context: Context | None,
        wanted_BN: Tensor | None,
        paths_BL2: Tensor | None,
    ) -> Tensor:
        one, other = (1.0, 1.0) if self.scales is None else self.scales
        normed_BLW = self.attention_norm(x_BLW)
        if wanted_BN is not None:
            context = Context(normed_BLW, by)
            x_BLW, normed_BLW = _take(x_BLW, wanted_BN), _take(normed_BLW, wanted_BN)
            by = None if by is None else Rotation(
                *(_take(part[:, 0], wanted_BN)[:, None] for part in by)
            )  # fmt: skip
            paths_BL2 = None if paths_BL2 is None else _take(paths_BL2, wanted_BN)
        if paths_BL2 is not None:
            one, other = one * paths_BL2[..., :1], other * paths_BL2[..., 1:]
        x_BLW = x_BLW + one * self.attention(normed_BLW, by, plan, context)
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

    Padding tokens are removed (``config.packing``) or masked. What attends to what is planned here,
    once for all layers.

    Parameters
    ----------
    blocks : iterable of Block
    x_BLW : torch.Tensor of shape (B, L, W)
    by : Rotation, optional
    keep_BL : torch.Tensor of shape (B, L), bool, optional
        False for padding. With a context: [B M], the padding of the context. None: no padding.
        It is read on the host: if it lies on a GPU, the host waits for the GPU.
    config : ModelConfig
        Its ``drop_path`` acts on layers that are in training.
    context : Context, optional
    wanted_BN : torch.Tensor of shape (B, N), int64, optional
        Tokens to return. Without packing, the last layer computes only these.

    Returns
    -------
    torch.Tensor of shape (B, L, W), or (B, N, W) of the wanted tokens
        Finite but undefined at padding.
    """
    keep_BL = None if keep_BL is None else keep_BL.cpu()
    if keep_BL is not None and bool(keep_BL.all()):
        keep_BL = None
    *first, last = blocks
    shares = path_shares(config.drop_path if last.training else 0.0, 1 + len(first))
    paths = [draw_paths(x_BLW, share) for share in shares]
    packing = None
    if config.packing and keep_BL is not None and context is None:
        packing = Packing.of(keep_BL, x_BLW.device)
        x_BLW = packing.pack(x_BLW)
        paths = [None if path is None else packing.pack(path) for path in paths]
        if by is not None:
            by = Rotation(*(packing.pack(part[:, 0])[:, None] for part in by))
    wanted = "sdpa" if config.attention_dropout else config.attention
    plan = plan_attention(wanted, _setting(x_BLW, config, packing), keep_BL, packing)
    if config.attention_dropout and last.training:
        plan = plan.with_dropout(config.attention_dropout)
    for block, path in zip(first, paths, strict=False):
        x_BLW = block(x_BLW, by, plan, context, None, path)
    if packing is not None:
        x_BLW = packing.unpack(last(x_BLW, by, plan, None, None, paths[-1]))
        return x_BLW if wanted_BN is None else _take(x_BLW, wanted_BN)
    if wanted_BN is not None:
        plan = plan.for_queries(wanted_BN.shape[1])
    out: Tensor = last(x_BLW, by, plan, context, wanted_BN, paths[-1])
    return out


def initialise_linears(module: nn.Module, config: ModelConfig) -> None:
    """Draw the weights of all linear layers, see :class:`~fmritok.trainer.config.ModelConfig`."""
    if config.init == "torch":
        return
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            adds = name.endswith(("attention.output", "mlp.outer"))
            depth = (2 * config.layers) ** -0.5 if adds else 1.0
            if config.init == "xavier":
                nn.init.xavier_uniform_(part.weight)
            else:
                nn.init.normal_(part.weight, std=depth * part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def initialise_table(table: Tensor, config: ModelConfig, std: float) -> None:
    """Draw a learned embedding, in place; ``std`` is for ``init: scaled``."""
    if config.init == "xavier":
        nn.init.trunc_normal_(table, std=_TABLE_STD)
    else:
        nn.init.normal_(table, std=_TABLE_STD if config.init == "torch" else std)


def _take(x_BLX: Tensor, index_BN: Tensor) -> Tensor:
    """Return the tokens at the given indices [B N X]."""
    return x_BLX.gather(1, index_BN[:, :, None].expand(-1, -1, x_BLX.shape[-1]))


def _setting(x_BLW: Tensor, config: ModelConfig, packing: Packing | None) -> Setting:
    kind, dtype = x_BLW.device.type, x_BLW.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return Setting(
        x_BLW.device,
        dtype,
        config.heads,
        config.kv_heads,
        config.width // config.heads,
        packing is not None,
        torch.is_grad_enabled(),
    )


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operation.name() in _KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
