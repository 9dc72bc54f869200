"""Windows of runs as arrays: which frames of which run, in reading order, divided into batches.

:mod:`fmritok.trainer.data.drawing` chooses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.errors import TrainingError

__all__ = ["Request", "RunIndex", "WindowBatches", "Windows"]

_COLUMNS = ("run", "first", "n_frames", "draw", "label")


class Request(NamedTuple):
    """Request to read one window."""

    epoch: int
    sample: int
    """number of the window within the epoch, in reading order"""
    run: int
    """position in the :class:`RunIndex`"""
    first: int
    """first frame within the run"""
    n_frames: int
    draw: int
    """random number of the window; seeds everything random in the objective"""
    label: int = -1
    """class of the window's event; -1 without one"""
    read: int = -1
    """number of the shared read within the epoch; -1 for a read of its own"""


@dataclass(frozen=True)
class RunIndex:
    """Positions of runs in a token group, as arrays only (cheap to send to workers).

    Attributes
    ----------
    run_id : np.ndarray of shape (n_runs,), str
    row, start, n_frames : np.ndarray of shape (n_runs,), int64
    tr : np.ndarray of shape (n_runs,), float64
        Seconds between frames.
    store : np.ndarray of shape (n_runs,), int64
        Number of the run's store in a mix; else 0.
    """

    run_id: npt.NDArray[np.str_]
    row: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    n_frames: npt.NDArray[np.int64]
    tr: npt.NDArray[np.float64]
    store: npt.NDArray[np.int64]

    @classmethod
    def of(cls, runs: pd.DataFrame, run_ids: Sequence[str]) -> RunIndex:
        """Take runs in the given order from a group's table of finished runs.

        Raises
        ------
        TrainingError
            If a run is missing or has no TR.
        """
        table = runs.set_index("run_id")
        missing = [run_id for run_id in run_ids if run_id not in table.index]
        if missing:
            raise TrainingError(
                expected("Run", missing[0], "a finished run of the store",
                         f"none of that id ({len(missing)} missing)",
                         "Tokenize it again, or start a new training.")
            )  # fmt: skip
        table = table.loc[list(run_ids)]
        tr = table["tr"].to_numpy(np.float64)
        for run_id, seconds in zip(run_ids, tr, strict=True):
            if not (np.isfinite(seconds) and seconds > 0):
                raise TrainingError(
                    expected("TR of run", run_id, "seconds above 0", seconds,
                             "Correct the catalog and tokenize again.")
                )  # fmt: skip
        return cls(
            run_id=np.array(run_ids, dtype=str),
            row=table["row"].to_numpy(np.int64),
            start=table["start"].to_numpy(np.int64),
            n_frames=table["n_frames"].to_numpy(np.int64),
            tr=tr,
            store=table["store"].to_numpy(np.int64)
            if "store" in table
            else np.zeros(len(table), np.int64),
        )

    def __len__(self) -> int:
        return len(self.run_id)

    def take(self, positions: npt.NDArray[np.int64]) -> RunIndex:
        """Return the runs at the given positions."""
        return RunIndex(**{name: column[positions] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Windows:
    """The windows of one pass, in reading order; arrays of shape (n_windows,), integers.

    Each ``per_read`` consecutive windows are served by one read.
    """

    epoch: int
    run: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    n_frames: npt.NDArray[np.int64]
    draw: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    per_read: int = 1

    @classmethod
    def of(
        cls,
        run: npt.NDArray[np.int64],
        first: npt.NDArray[np.int64],
        n_frames: npt.NDArray[np.int64],
        draw: npt.NDArray[np.int64],
        *,
        epoch: int = 0,
        label: npt.NDArray[np.int64] | None = None,
        per_read: int = 1,
    ) -> Windows:
        """Make windows, by default without labels."""
        label = np.full(len(run), -1) if label is None else label
        return cls(epoch, run, first, n_frames, draw, label, per_read)

    @classmethod
    def joined(cls, parts: Sequence[Windows]) -> Windows:
        """Concatenate windows of one epoch and with equal windows per read."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
        }
        return replace(parts[0], **columns)

    def __len__(self) -> int:
        return len(self.run)

    def take(self, positions: npt.NDArray[np.int64]) -> Windows:
        """Return the windows at the given positions, in that order, whole reads only."""
        columns: dict[str, Any] = {name: getattr(self, name)[positions] for name in _COLUMNS}
        return replace(self, **columns)

    def batches(self, batch_size: int, seen: int = 0) -> Iterator[list[Request]]:
        """Yield the requests of each batch from sample ``seen`` on; the last may be smaller."""
        columns = [getattr(self, name) for name in _COLUMNS]
        for low in range(seen, len(self), batch_size):
            chosen = range(low, min(low + batch_size, len(self)))
            yield [
                Request(self.epoch, i, *(int(c[i]) for c in columns))._replace(
                    read=i // self.per_read
                )
                for i in chosen
            ]


class WindowBatches:
    """Endless batch sampler that starts at (epoch, samples seen).

    A single pass covers all epochs: loader workers prefetch across the end of an epoch.

    Parameters
    ----------
    windows_of : callable
        Returns the windows of an epoch; deterministic.
    batch_size : int
        Over all ranks; each rank gets its share from
        :class:`fmritok.trainer.parallel.distributed.ShareOfBatches`.
    epoch, seen : int
        Position to start from.
    """

    def __init__(
        self,
        windows_of: Callable[[int], Windows],
        *,
        batch_size: int,
        epoch: int = 0,
        seen: int = 0,
    ) -> None:
        self.windows_of, self.batch_size = windows_of, batch_size
        self.epoch, self.seen = epoch, seen

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, seen = self.epoch, self.seen
        while True:
            yield from self.windows_of(epoch).batches(self.batch_size, seen)
            epoch, seen = epoch + 1, 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.windows_of(0)) // self.batch_size)
