"""Several processes that train one model: ranks, their shares of a batch, sums over all ranks.

Under ``torchrun`` every process is one rank; without it there is one. The windows of a step are
divided among the ranks. The number of ranks does not change the windows of a step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fmritok.device import local_rank
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.data.windows import Request
from fmritok.trainer.errors import OtherProcessError

__all__ = [
    "Ranks", "ShareOfBatches", "is_placeholder", "split_batch", "sum_over_ranks",
    "total_over_ranks",
]  # fmt: skip

Result = TypeVar("Result")

#: Groups of processes that were left. The destructor of a gloo group joins its threads. If
#: DistributedDataParallel frees the group, it holds Python's lock, and these threads may wait for
#: that lock. Groups are therefore kept until the process ends.
_LEFT: list[dist.ProcessGroup | None] = []


@dataclass(frozen=True)
class Ranks:
    """Number of this process among those that train together.

    Attributes
    ----------
    rank, size, local : int
        Number of this process, number of processes, number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def join(cls, device_type: str) -> Ranks:
        """Connect to the other processes that ``torchrun`` started, if any."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo")
        return cls(dist.get_rank(), size, local_rank())

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def leave(self) -> None:
        """End the communication with the other processes."""
        if self.size > 1 and dist.is_initialized():
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()

    def agreed(self, value: Result) -> Result:
        """Return the first process's value, for values that may differ, such as the time."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def first_only(self, do: Callable[[], Result]) -> Result | None:
        """Call a function in the first process while the others wait. If it fails, all stop.

        Parameters
        ----------
        do : callable
            Called in the first process.

        Returns
        -------
        object or None
            Result of the function; None in the other processes.

        Raises
        ------
        OtherProcessError
            In the other processes, if the function failed. The first one raises its error.
        """
        result: Result | None = None
        failed: Exception | None = None
        if self.is_first:
            try:
                result = do()
            except Exception as error:
                failed = error
        if self.size > 1:
            told = self.agreed(None if failed is None else str(failed))
            if told is not None and not self.is_first:
                raise OtherProcessError(told)
        if failed is not None:
            raise failed
        return result

    def of_first(self, do: Callable[[], Result]) -> Result:
        """Call a function in the first process, and return its picklable result in all.

        Raises
        ------
        OtherProcessError
            As in :meth:`first_only`.
        """
        result = self.agreed(self.first_only(do))
        return cast("Result", result)


class ShareOfBatches:
    """One rank's share of every batch. All ranks get the same number of batches.

    Windows of one read (``data.windows_per_read``) go to one rank. A batch with fewer reads than
    ranks is divided by windows instead: reading twice costs less than an idle rank. If there are
    fewer windows than ranks, a rank without a window gets a placeholder of weight 0, because all
    ranks have to take the same steps.

    Parameters
    ----------
    batches : iterable of sequences of Request
    ranks : Ranks
    """

    def __init__(self, batches: Iterable[Sequence[Request]], ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks

    def __iter__(self) -> Iterator[list[Request]]:
        for batch in self.batches:
            yield self._share(batch) or [batch[0]._replace(sample=-1)]

    def _share(self, batch: Sequence[Request]) -> list[Request]:
        rank, size = self.ranks.rank, self.ranks.size
        reads = [list(windows) for _, windows in groupby(batch, _read_of)]
        if len(reads) >= size:
            return [window for read in reads[rank::size] for window in read]
        each, more = divmod(len(batch), size)
        low, high = (each * edge + min(edge, more) for edge in (rank, rank + 1))
        return list(batch[low:high])


def _read_of(request: Request) -> tuple[int, int]:
    return request.read, request.sample if request.read < 0 else 0


def is_placeholder(batch: Batch) -> bool:
    """Tell whether a batch is a placeholder, without windows of its own."""
    return batch.seen == 0


def split_batch(batch: Batch, n_parts: int) -> list[Batch]:
    """Split the windows of a batch into parts; parts without windows are placeholders."""
    if n_parts == 1:
        return [batch]
    parts = []
    for rows in torch.arange(len(batch.draws)).tensor_split(n_parts):
        chosen = rows if len(rows) else torch.zeros(1, dtype=torch.int64)
        tensors: dict[str, Any] = {
            name: value[chosen]
            for name, value in batch._asdict().items()
            if isinstance(value, Tensor)
        }
        seen = batch.seen if len(rows) else 0
        parts.append(batch._replace(**tensors, seen=seen))
    return parts


class _SumOverRanks(torch.autograd.Function):
    """Sum over processes. Its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return total_over_ranks(x)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total_over_ranks(gradient)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, with its gradient."""
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return total


def total_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient."""
    if dist.is_available() and dist.is_initialized():
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x
