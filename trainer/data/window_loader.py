"""Batches of windows for any training loop, with exact mid-epoch resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.data.dataset import WindowDataset
from fmritok.trainer.data.drawing import keyed_generator
from fmritok.trainer.data.loader import batch_loader
from fmritok.trainer.data.windows import Request
from fmritok.trainer.errors import CheckpointError, ConfigError

__all__ = ["WindowLoader", "window_loader"]

_ORDER = 5  # key that keeps the random stream apart from those of the windows


class WindowLoader:
    """Loader of batches: dicts of tensors, window axis first.

    Each pass is an epoch with an order of its own; random windows are drawn anew. Both depend
    on (seed, epoch) only, not on the number of workers.

    Parameters
    ----------
    windows : WindowDataset
    batch_size : int
        Windows per batch and process.
    seed : int
        Seed of the order.
    shuffle : bool
        Whether each epoch has an order of its own; False keeps that of the dataset.
    drop_last : bool
        Drop a smaller last batch.
    workers : int
        Loader workers; 0 reads in this process.
    rank, world_size : int
        Rank of this process and number of processes. All ranks get the same number of batches; if
        the windows cannot be divided evenly, the first ones are repeated.
    pin_memory : bool
        Pin host memory, for a GPU.

    Raises
    ------
    ConfigError
        If a number is out of range, or workers are requested for a store in memory.
    """

    def __init__(
        self,
        windows: WindowDataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size or workers < 0:
            raise ConfigError(
                expected("Loader", "of windows", "batch_size above 0, rank below world_size, "
                         "workers of 0 or more", f"batch_size {batch_size}, rank {rank} of "
                         f"{world_size}, workers {workers}", "Change them.")
            )  # fmt: skip
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self._epoch = self._seen = 0
        self._is_resumed = False
        self._batches = _Batches()
        self._loader = batch_loader(
            windows.reader, [windows.group.location], self._batches,
            workers=workers, pin_memory=pin_memory,
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches of an epoch."""
        share = -(-len(self.windows) // self.world_size)
        return share // self.batch_size if self.drop_last else -(-share // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if not self._is_resumed:
            self._seen = 0
        self._is_resumed = False
        self._batches.now = self._order(self._epoch)[self._seen : len(self)]
        for batch in self._loader:
            self._seen += 1
            yield batch
        self._epoch, self._seen = self._epoch + 1, 0

    @property
    def epoch(self) -> int:
        """Epoch of the next batch."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, starting at its first batch."""
        if not (self._is_resumed and epoch == self._epoch):
            self._epoch, self._seen, self._is_resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch, JSON-able."""
        epoch, seen = self._epoch, self._seen
        if seen == len(self):
            epoch, seen = epoch + 1, 0
        return {"epoch": epoch, "seen": seen, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state: the next pass yields the remaining batches of its epoch.

        Raises
        ------
        CheckpointError
            If it is the state of a different loader; names the first difference.
        """
        for name, now in self._identity().items():
            if state.get(name) != now:
                raise CheckpointError(
                    expected("State of the loader", "of windows",
                             f"{name} = {now!r} (as the loader has it)", repr(state.get(name)),
                             "Make the loader and its windows with the same options.")
                )  # fmt: skip
        self._epoch, self._seen = int(state["epoch"]), int(state["seen"])
        self._is_resumed = True

    def _identity(self) -> dict[str, Any]:
        return {
            "windows": len(self.windows),
            "window": self.windows.window,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "world_size": self.world_size,
        }

    def _order(self, epoch: int) -> list[list[Request]]:
        """Return this process's batches of an epoch."""
        requests = self.windows.requests(epoch)
        order = np.arange(len(requests))
        if self.shuffle:
            order = keyed_generator(self.seed, _ORDER, epoch).permutation(len(requests))
        share = -(-len(order) // self.world_size)
        mine = np.resize(order, share * self.world_size)[self.rank :: self.world_size]
        return [
            [requests[i] for i in mine[low : low + self.batch_size]]
            for low in range(0, share, self.batch_size)
        ]


class _Batches:
    """Batches of the next pass."""

    def __init__(self) -> None:
        self.now: list[list[Request]] = []

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.now)


#: Make a loader of batches; its options are those of :class:`WindowLoader`.
window_loader = WindowLoader
