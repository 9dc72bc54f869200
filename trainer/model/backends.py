"""Attention by one of several backends with equal results.

A :class:`Plan` says which tokens attend to which. It is made once a batch and used by all layers.

``sdpa`` is torch's own, on any device; on a GPU, torch chooses cuDNN or flash for whole windows.
``varlen`` and ``xformers`` attend to packed sequences in one kernel, on a GPU; windows that are not
packed are ``sdpa``'s. ``flex`` is compiled for the mask. ``math`` materialises the scores in
float32: the reference.

There is no 3-D input and no repeated key here, and dropout only if it is asked for: with any of
them torch falls back to a kernel of quadratic memory, without a warning.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fmritok.device import send
from fmritok.trainer.model.packing import Packing

__all__ = ["PLANS", "Flex", "Math", "Plan", "Sdpa", "SdpaByLength", "Varlen", "Xformers"]


class Plan:
    """How the tokens of a batch attend to one another."""

    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return the attended values [B H L J]; H / G query heads share each key-value head."""
        raise NotImplementedError

    def for_queries(self, count: int) -> Plan:
        """Return the plan if only that many tokens of a window ask; all are attended to."""
        return self

    def with_dropout(self, share: float) -> Plan:
        """Return the plan with that share of the attention's weights set to 0."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Sdpa(Plan):
    """Whole or padded windows by torch's own attention."""

    keep_B11M: Tensor | None = None
    dropout: float = 0.0

    @classmethod
    def of(cls, keep_BM: Tensor | None, device: torch.device) -> Sdpa:
        """Plan windows; ``keep_BM`` is on the host, False for padding."""
        return cls(None if keep_BM is None else send(keep_BM[:, None, None], device))

    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return [B H L J]."""
        return F.scaled_dot_product_attention(
            q_BHLJ, k_BGMJ, v_BGMJ, self.keep_B11M, self.dropout,
            enable_gqa=q_BHLJ.shape[1] != k_BGMJ.shape[1],
        )  # fmt: skip

    def with_dropout(self, share: float) -> Sdpa:
        """Return the plan with dropout."""
        return replace(self, dropout=share)


@dataclass(frozen=True, eq=False)
class SdpaByLength(Plan):
    """Packed sequences by torch's own attention, one call for each length.

    Attributes
    ----------
    lengths : list of int
    members : list of list of int
        Sequences of equal length, which share a call. Most windows have full length.
    """

    lengths: list[int]
    members: list[list[int]]
    dropout: float = 0.0

    @classmethod
    def of(cls, packing: Packing) -> SdpaByLength:
        """Sort the sequences by length."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, length in enumerate(packing.lengths):
            by_length[length].append(i)
        return cls(list(packing.lengths), list(by_length.values()))

    # Not compiled: there would be a graph for each mix of lengths.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return [1 H L J]."""
        grouped = q_BHLJ.shape[1] != k_BGMJ.shape[1]
        parts = [x.split_with_sizes(self.lengths, dim=2) for x in (q_BHLJ, k_BGMJ, v_BGMJ)]
        out: list[Tensor] = [q_BHLJ] * len(self.lengths)
        for members in self.members:
            one, keys, values = (torch.cat([part[i] for i in members]) for part in parts)
            attended = F.scaled_dot_product_attention(
                one, keys, values, dropout_p=self.dropout, enable_gqa=grouped
            )
            for i, row in zip(members, attended.chunk(len(members)), strict=True):
                out[i] = row
        return torch.cat(out, dim=2)

    def with_dropout(self, share: float) -> SdpaByLength:
        """Return the plan with dropout."""
        return replace(self, dropout=share)


@dataclass(frozen=True, eq=False)
class Varlen(Plan):
    """Packed sequences by torch's attention for unequal lengths (torch 2.10 or newer)."""

    offsets: Tensor
    longest: int
    takes_groups: bool
    """whether this release of torch lets query heads share key-value heads"""

    @classmethod
    def of(cls, packing: Packing) -> Varlen:
        """Take the offsets of the sequences."""
        from torch.nn.attention.varlen import varlen_attn

        takes_groups = "enable_gqa" in inspect.signature(varlen_attn).parameters
        return cls(packing.offsets, packing.longest, takes_groups)

    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return [1 H L J]."""
        from torch.nn.attention.varlen import varlen_attn

        how: dict[str, Any] = {}
        if q_BHLJ.shape[1] != k_BGMJ.shape[1]:
            if self.takes_groups:
                how["enable_gqa"] = True
            else:
                k_BGMJ, v_BGMJ = _repeated(q_BHLJ, k_BGMJ, v_BGMJ)
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (q_BHLJ, k_BGMJ, v_BGMJ))
        bounds = (self.offsets, self.offsets, self.longest, self.longest)
        attended_LHJ: Any = varlen_attn(q, k, v, *bounds, **how)
        attended: Tensor = attended_LHJ.transpose(0, 1)[None]
        return attended


@dataclass(frozen=True, eq=False)
class Xformers(Plan):
    """Packed sequences by xformers."""

    bias: Any

    @classmethod
    def of(cls, packing: Packing) -> Xformers:
        """Make xformers' description of the sequences."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        device = packing.offsets.device
        return cls(BlockDiagonalMask.from_seqlens(list(packing.lengths), device=device))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return [1 H L J]."""
        from xformers.ops import memory_efficient_attention

        # xformers has no gradient for shared heads: repeat them.
        keys, values = _repeated(q_BHLJ, k_BGMJ, v_BGMJ)
        q, k, v = (x.transpose(1, 2) for x in (q_BHLJ, keys, values))
        attended: Tensor = memory_efficient_attention(q, k, v, attn_bias=self.bias)
        return attended.transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Flex(Plan):
    """Attention that is compiled for its mask; the mask is kept by blocks of 128 x 128 tokens."""

    sees: Callable[..., Tensor]
    blocks: Any

    @classmethod
    def of_windows(cls, keep_BM: Tensor, n_queries: int, device: torch.device) -> Flex:
        """Plan padded windows; ``keep_BM`` is on the host, False for padding."""
        keep = send(keep_BM, device)

        def sees(b: Tensor, h: Tensor, one: Tensor, other: Tensor) -> Tensor:
            return keep[b, other]

        return cls(sees, _block_mask(sees, (*keep.shape[:1], n_queries, keep.shape[1]), device))

    @classmethod
    def of(cls, packing: Packing) -> Flex:
        """Plan packed sequences."""
        sequence = packing.sequence()

        def sees(b: Tensor, h: Tensor, one: Tensor, other: Tensor) -> Tensor:
            return sequence[one] == sequence[other]

        shape = (None, len(sequence), len(sequence))
        return cls(sees, _block_mask(sees, shape, sequence.device))

    def for_queries(self, count: int) -> Flex:
        """Return the mask for that many queries."""
        shape = (self.blocks.shape[0], count, self.blocks.seq_lengths[1])
        device = self.blocks.kv_num_blocks.device
        return replace(self, blocks=_block_mask(self.sees, shape, device))

    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return [B H L J]."""
        from torch.nn.attention.flex_attention import flex_attention

        run: Any = flex_attention
        if q_BHLJ.device.type == "cuda" and not torch.compiler.is_compiling():
            run = _compiled(flex_attention)
        grouped = q_BHLJ.shape[1] != k_BGMJ.shape[1]
        attended: Tensor = run(q_BHLJ, k_BGMJ, v_BGMJ, block_mask=self.blocks, enable_gqa=grouped)
        return attended


@dataclass(frozen=True, eq=False)
class Math(Plan):
    """The scores of all pairs of tokens in float32."""

    sees: Tensor | None = None
    """True for tokens that are attended to [B 1 1 M], or pairs of packed ones [L L]"""

    @classmethod
    def of(cls, packing: Packing) -> Math:
        """Plan packed sequences."""
        sequence = packing.sequence()
        return cls(sequence[:, None] == sequence)

    def attend(self, q_BHLJ: Tensor, k_BGMJ: Tensor, v_BGMJ: Tensor) -> Tensor:
        """Return [B H L J]."""
        keys, values = (x.float() for x in _repeated(q_BHLJ, k_BGMJ, v_BGMJ))
        scores_BHLM = q_BHLJ.float() @ keys.mT / math.sqrt(q_BHLJ.shape[-1])
        if self.sees is not None:
            scores_BHLM = scores_BHLM.masked_fill(~self.sees, -torch.inf)
        return (scores_BHLM.softmax(-1) @ values).to(v_BGMJ.dtype)


#: What plans packed sequences, by the name of the backend.
PLANS: dict[str, Callable[[Packing], Plan]] = {
    "sdpa": SdpaByLength.of,
    "varlen": Varlen.of,
    "xformers": Xformers.of,
    "flex": Flex.of,
    "math": Math.of,
}


def _repeated(q_BHLJ: Tensor, *others: Tensor) -> list[Tensor]:
    """Return key-value heads as often as query heads."""
    return [x.repeat_interleave(q_BHLJ.shape[1] // x.shape[1], dim=1) for x in others]


def _block_mask(
    sees: Callable[..., Tensor], shape: tuple[int | None, int, int], device: torch.device
) -> Any:
    """Return a mask by blocks; on a GPU compiled, without a matrix of all pairs of tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    windows, queries, keys = shape
    make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return make(sees, windows, None, queries, keys, device=str(device))


@lru_cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)
