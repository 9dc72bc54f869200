"""Which windows are read, and in what order: pure functions of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.pipeline.errors import expected
from fmritok.trainer.errors import TrainingError

__all__ = [
    "EndlessBatches",
    "Request",
    "RunIndex",
    "Windows",
    "random_windows",
    "steps_per_epoch",
    "validation_windows",
]

_TRAIN, _VALIDATION = 0, 1  # keys that keep the random streams apart


class Request(NamedTuple):
    """One window that a loader worker is asked for."""

    epoch: int
    sample: int
    """number of the window within the epoch, in reading order"""
    run: int
    """position in the :class:`RunIndex`"""
    first: int
    """first frame within the run"""
    n_frames: int
    draw: int
    """the window's own random number: all that an objective draws follows from it"""


@dataclass(frozen=True)
class RunIndex:
    """Where runs are in a token group; arrays only, so that workers copy no Python objects.

    Attributes
    ----------
    run_id : np.ndarray of shape (n_runs,), str
    row, start, n_frames : np.ndarray of shape (n_runs,), int64
    tr : np.ndarray of shape (n_runs,), float64
        Seconds between frames.
    """

    run_id: npt.NDArray[np.str_]
    row: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    n_frames: npt.NDArray[np.int64]
    tr: npt.NDArray[np.float64]

    @classmethod
    def of(cls, runs: pd.DataFrame, run_ids: Sequence[str]) -> RunIndex:
        """Take the given runs, in the given order, from a group's table of finished runs.

        Raises
        ------
        TrainingError
            If a run is not there, or has no TR.
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
        )

    def __len__(self) -> int:
        return len(self.run_id)


@dataclass(frozen=True)
class Windows:
    """The windows of one pass, in reading order; arrays of shape (n_windows,), integers."""

    epoch: int
    run: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    n_frames: npt.NDArray[np.int64]
    draw: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)

    def batches(self, batch_size: int, seen: int = 0) -> Iterator[list[Request]]:
        """Yield the requests of each batch from sample ``seen`` on; the last may be smaller."""
        for low in range(seen, len(self), batch_size):
            chosen = range(low, min(low + batch_size, len(self)))
            columns = (self.run, self.first, self.n_frames, self.draw)
            yield [Request(self.epoch, i, *(int(c[i]) for c in columns)) for i in chosen]


def random_windows(
    index: RunIndex, *, window: int, windows_per_run: int, seed: int, epoch: int
) -> Windows:
    """Draw an epoch's windows: starts, order and draws depend on (seed, epoch) alone."""
    generator = _generator(seed, _TRAIN, epoch)
    run = np.repeat(np.arange(len(index)), windows_per_run)
    length = np.minimum(window, index.n_frames)[run]
    first = generator.integers(0, index.n_frames[run] - length, endpoint=True)
    order = generator.permutation(len(run))
    draw = generator.integers(0, 2**63 - 1, len(run))
    return Windows(epoch, run[order], first[order], length[order], draw)


def validation_windows(index: RunIndex, *, window: int, at_most: int, seed: int) -> Windows:
    """Return all non-overlapping windows, or evenly spread ones of them; always the same.

    A run gives its whole windows from its first frame on; one shorter than a window gives itself.
    """
    count = np.maximum(index.n_frames // window, 1)
    run = np.repeat(np.arange(len(index)), count)
    first = window * (np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count))
    length = np.minimum(window, index.n_frames)[run]
    chosen = np.linspace(0, len(run) - 1, min(at_most, len(run))).round().astype(np.int64)
    draw = _generator(seed, _VALIDATION).integers(0, 2**63 - 1, len(chosen))
    return Windows(0, run[chosen], first[chosen], length[chosen], draw)


def steps_per_epoch(n_runs: int, *, windows_per_run: int, batch_size: int) -> int:
    """Return how many batches an epoch has."""
    return -(-n_runs * windows_per_run // batch_size)


class EndlessBatches:
    """Batch sampler that goes on from (epoch, samples seen) for as many epochs as are asked for.

    One pass for the whole training: loader workers read ahead across the end of an epoch.
    """

    def __init__(
        self,
        index: RunIndex,
        *,
        window: int,
        windows_per_run: int,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        seen: int = 0,
    ) -> None:
        self.index, self.batch_size = index, batch_size
        self.plan = {"window": window, "windows_per_run": windows_per_run, "seed": seed}
        self.epoch, self.seen = epoch, seen

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, seen = self.epoch, self.seen
        while True:
            windows = random_windows(self.index, epoch=epoch, **self.plan)
            yield from windows.batches(self.batch_size, seen)
            epoch, seen = epoch + 1, 0


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
