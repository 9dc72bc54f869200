"""Packed sequences: the tokens of windows of unequal length end to end in one row, no padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fmritok.device import send

__all__ = ["Packing"]


@dataclass(frozen=True, eq=False)
class Packing:
    """Which tokens of a padded batch are packed, and where each sequence begins.

    Made on the host once a batch. Nothing is read back from the device.

    Attributes
    ----------
    lengths : tuple of int
        Tokens of each sequence, in order.
    longest : int
        Upper bound of the lengths. It is the padded length, which rarely changes.
    rows : torch.Tensor of shape (sum of lengths,), int64
        Number of each token in the flattened padded batch.
    offsets : torch.Tensor of shape (B + 1,), int32
        First token of each sequence, and the end of the last one.
    """

    lengths: tuple[int, ...]
    longest: int
    rows: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, keep_BL: Tensor, device: torch.device) -> Packing:
        """Plan the packing of a batch.

        Parameters
        ----------
        keep_BL : torch.Tensor of shape (B, L), bool
            False for padding, on the host.
        device : torch.device
            Where the tokens are.
        """
        lengths_B = keep_BL.sum(1)
        offsets = torch.zeros(len(lengths_B) + 1, dtype=torch.int32)
        offsets[1:] = lengths_B.cumsum(0)
        return cls(
            tuple(lengths_B.tolist()),
            keep_BL.shape[1],
            send(keep_BL.flatten().nonzero()[:, 0], device),
            send(offsets, device),
        )

    def pack(self, x_BLX: Tensor) -> Tensor:
        """Return the kept tokens in one row [1 sum(lengths) X]."""
        return x_BLX.flatten(0, 1).index_select(0, self.rows)[None]

    def unpack(self, x_1NX: Tensor) -> Tensor:
        """Return packed tokens in their padded places [B L X]; 0 in padding."""
        shape = (len(self.lengths), self.longest, x_1NX.shape[-1])
        empty = x_1NX.new_zeros(shape[0] * shape[1], shape[2])
        return empty.index_copy(0, self.rows, x_1NX[0]).view(shape)

    def sequence(self) -> Tensor:
        """Return the sequence number of each token [sum(lengths)], int64."""
        numbers = torch.arange(len(self.lengths))
        return send(numbers.repeat_interleave(torch.tensor(self.lengths)), self.rows.device)
