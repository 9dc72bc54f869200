"""Compute attention by one of several backends with equal results.

``sdpa`` is torch's own, on any device. ``xformers`` and ``flex`` attend to packed sequences in one
kernel, on a GPU. ``math`` materialises the scores in float32: the reference.

There is no dropout, no 3-D input and no repeated key here: with any of them torch falls back to a
kernel of quadratic memory, without a warning.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.config import Backend
from fmritok.trainer.errors import ConfigError

__all__ = ["Mask", "Packing", "attend", "choose_backend"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packing:
    """Packed sequences: end to end in one row; each attends only to itself.

    Attributes
    ----------
    lengths : tuple of int
        Tokens of each sequence, in order.
    """

    lengths: tuple[int, ...]

    def sequence(self, device: torch.device) -> Tensor:
        """Return the sequence number of each token [L], int64."""
        lengths = torch.tensor(self.lengths, device=device)
        return torch.arange(len(self.lengths), device=device).repeat_interleave(lengths)


#: None: all tokens are attended to. A tensor [B M], bool: True for those that are. Or packing.
Mask = Tensor | Packing | None


def attend(
    q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor, mask: Mask = None, backend: Backend = "auto"
) -> Tensor:
    """Attend over whole sequences; H / G query heads share each key-value head.

    Parameters
    ----------
    q_BHLJ : torch.Tensor of shape (B, H, L, J)
    k_BGMJ, v_BGMJ : torch.Tensor of shape (B, G, M, J)
    mask : torch.Tensor of shape (B, M), bool, or Packing, optional
        A packing needs B = 1 and L = M.
    backend : {"auto", "sdpa", "xformers", "flex", "math"}

    Returns
    -------
    torch.Tensor of shape (B, H, L, J)

    Raises
    ------
    ConfigError
        If the backend cannot be used here.
    """
    needs_gradient = torch.is_grad_enabled() and q_BHLJ.requires_grad
    name = choose_backend(backend, q_BHLJ.device.type, isinstance(mask, Packing), needs_gradient)
    return _BACKENDS[name](q_BHLJ, k_BGMJ, v_BGMJ, mask)


# Logging inside a compiled layer would break its graph.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def choose_backend(wanted: Backend, device: str, packed: bool, needs_gradient: bool) -> str:
    """Return the backend to use and log the reason once.

    Raises
    ------
    ConfigError
        If the wanted backend cannot be used here.
    """
    return _choose(wanted, device, packed, needs_gradient)


@lru_cache
def _choose(wanted: Backend, device: str, packed: bool, needs_gradient: bool) -> str:
    xformers = find_spec("xformers") is not None
    if wanted == "auto":
        name, why = "sdpa", "torch's own is the fastest without packing"
        if device != "cuda":
            why = f"the others need a GPU, and this is the {device}"
        elif packed and xformers:
            name, why = "xformers", "one kernel for packed sequences"
        elif packed:
            why = "xformers is not installed: one call for each length of packed sequence"
        _log_choice(name, why)
        return name
    problem = ""
    if wanted == "xformers" and not xformers:
        problem = "xformers is not installed"
    elif wanted == "xformers" and device != "cuda":
        problem = f"xformers needs a GPU, and this is the {device}"
    elif wanted == "flex" and device != "cuda" and needs_gradient:
        problem = f"torch has no gradient of it on the {device}"
    if problem:
        raise ConfigError(
            expected("Option", "model.attention", "a backend that can train here",
                     f"{wanted} ({problem})", "Use --set model.attention=auto.")
        )  # fmt: skip
    return wanted


@lru_cache
def _log_choice(name: str, why: str) -> None:
    _logger.info("Attention by %s: %s", name, why)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    if not isinstance(mask, Packing):
        bias = None if mask is None else mask[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, bias, enable_gqa=grouped)
    # Sequences of equal length share a call; most windows have full length.
    lengths = list(mask.lengths)
    parts = [torch.split_with_sizes(x, lengths, dim=2) for x in (q, k, v)]
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(mask.lengths):
        by_length[length].append(i)
    out: list[Tensor] = [q] * len(mask.lengths)
    for members in by_length.values():
        one, keys, values = (torch.cat([part[i] for i in members]) for part in parts)
        attended = F.scaled_dot_product_attention(one, keys, values, enable_gqa=grouped)
        for i, row in zip(members, attended.chunk(len(members)), strict=True):
            out[i] = row
    return torch.cat(out, dim=2)


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    repeats = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(repeats, dim=1) for x in (k, v))
    scores_BHLM = q.float() @ keys.mT / math.sqrt(q.shape[-1])
    if isinstance(mask, Packing):
        sequence = mask.sequence(q.device)
        scores_BHLM = scores_BHLM.masked_fill(sequence[:, None] != sequence, -torch.inf)
    elif mask is not None:
        scores_BHLM = scores_BHLM.masked_fill(~mask[:, None, None, :], -torch.inf)
    return (scores_BHLM.softmax(-1) @ values).to(v.dtype)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    blocks = None
    if mask is not None:
        if isinstance(mask, Packing):
            sequence = mask.sequence(q.device)

            def sees(b: Tensor, h: Tensor, one: Tensor, other: Tensor) -> Tensor:
                return sequence[one] == sequence[other]

        else:
            keep = mask

            def sees(b: Tensor, h: Tensor, one: Tensor, other: Tensor) -> Tensor:
                return keep[b, other]

        rows = None if isinstance(mask, Packing) else len(q)
        blocks = create_block_mask(sees, rows, None, q.shape[2], k.shape[2], device=q.device.type)
    run = _compiled(flex_attention) if q.device.type == "cuda" else flex_attention
    attended: Tensor = run(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])
    return attended


@lru_cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    bias: Any = None
    if isinstance(mask, Packing):
        bias = BlockDiagonalMask.from_seqlens(list(mask.lengths))
    elif mask is not None:  # slower and larger than packing
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        bias = bias[:, None, None, :].expand(len(q), q.shape[1], q.shape[2], -1).contiguous()
    # xformers has no gradient for shared heads: repeat them.
    repeats = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(repeats, dim=1).transpose(1, 2) for x in (k, v))
    attended: Tensor = memory_efficient_attention(q.transpose(1, 2), keys, values, attn_bias=bias)
    return attended.transpose(1, 2)


_BACKENDS = {"sdpa": _sdpa, "math": _math, "flex": _flex, "xformers": _xformers}
