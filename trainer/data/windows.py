"""Choose the windows of an epoch and their order, as pure functions of (seed, epoch).

:func:`random_windows` and :func:`all_windows` are here, windows locked to events in
:mod:`fmritok.trainer.data.events`, those of several stores in :mod:`fmritok.trainer.data.mixing`.
All return :class:`Windows`. :class:`WindowBatches` divides them into batches, from any sample on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NotRequired, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError, TrainingError

__all__ = [
    "Request",
    "RunIndex",
    "WindowBatches",
    "WindowOptions",
    "Windows",
    "all_windows",
    "draw_windows",
    "keyed_generator",
    "random_windows",
    "validation_windows",
]

_TRAIN, _VALIDATION = 0, 1  # keys that keep the random streams apart
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


class WindowOptions(TypedDict):
    """How the random windows of every run are drawn.

    Every window starts at each frame that it can start at with equal probability, whatever
    ``windows_per_read`` and ``read_frames``.
    """

    window: int
    """frames; shorter runs are taken whole"""
    windows_per_run: int
    """a multiple of ``windows_per_read``"""
    windows_per_read: NotRequired[int]
    """consecutive windows that lie within the same ``read_frames`` frames, so one read serves all
    of them; they differ in their random numbers. For slow disks. Default: 1"""
    read_frames: NotRequired[int | None]
    """default: ``window``, and the windows of a read are the same frames; without effect if
    ``windows_per_read`` is 1"""


def random_windows(
    index: RunIndex, *, seed: int, epoch: int, **options: Unpack[WindowOptions]
) -> Windows:
    """Draw an epoch's windows: starts, order and draws depend on (seed, epoch) alone.

    Parameters
    ----------
    index : RunIndex
    seed, epoch : int
    **options
        See :class:`WindowOptions`.

    Raises
    ------
    ConfigError
        If the options do not go together.
    """
    return draw_windows(index, keyed_generator(seed, _TRAIN, epoch), epoch=epoch, **options)


def draw_windows(
    index: RunIndex,
    generator: np.random.Generator,
    *,
    epoch: int,
    **options: Unpack[WindowOptions],
) -> Windows:
    """Draw random windows of every run with a generator; see :func:`random_windows`."""
    window, windows_per_run = options["window"], options["windows_per_run"]
    windows_per_read = options.get("windows_per_read", 1)
    read_frames = options.get("read_frames")
    reads = windows_per_run // windows_per_read
    if reads * windows_per_read != windows_per_run or (read_frames or window) < window:
        raise ConfigError(
            expected("Option", "data.windows_per_run",
                     f"a multiple of data.windows_per_read = {windows_per_read}, and "
                     f"data.read_frames of at least data.window = {window}",
                     f"{windows_per_run} and {read_frames}", "Change them with --set.")
        )  # fmt: skip
    run = np.repeat(np.arange(len(index)), reads)
    length = np.minimum(window, index.n_frames)[run]
    last = index.n_frames[run] - length
    first = generator.integers(0, last, endpoint=True)
    order = np.repeat(generator.permutation(len(run)), windows_per_read)
    draw = _draws(generator, len(order))
    if windows_per_read > 1:
        # One start is drawn as for a single window. A range of starts is placed at random around
        # it. The start is uniform within the range, and so are the others: every window has the
        # distribution of a single one.
        room = (read_frames or window) - window
        low = first - generator.integers(0, room, len(run), endpoint=True)
        low, high = np.maximum(low, 0)[order], np.minimum(low + room, last)[order]
        starts = generator.integers(low, high, endpoint=True)
    else:
        starts = first[order]
    return Windows.of(
        run[order], starts, length[order], draw, epoch=epoch, per_read=windows_per_read
    )


def all_windows(index: RunIndex, *, window: int, stride: int | None = None) -> Windows:
    """Return the complete windows of every run in order, from its first frame on.

    Parameters
    ----------
    index : RunIndex
    window : int
        Frames. A shorter run is one window.
    stride : int, optional
        Frames between the starts of windows. Default: ``window``, no overlap.
    """
    stride = stride or window
    count = np.maximum((index.n_frames - window) // stride + 1, 1)
    run = np.repeat(np.arange(len(index)), count)
    first = stride * (np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count))
    return Windows.of(run, first, np.minimum(window, index.n_frames)[run], np.zeros_like(run))


def validation_windows(index: RunIndex, *, window: int, at_most: int, seed: int) -> Windows:
    """Return fixed windows: all without overlap, or ``at_most`` evenly spread ones."""
    windows = all_windows(index, window=window)
    count = min(at_most, len(windows))
    windows = windows.take(np.linspace(0, len(windows) - 1, count).round().astype(np.int64))
    return replace(windows, draw=_draws(keyed_generator(seed, _VALIDATION), count))


class WindowBatches:
    """Endless batch sampler that starts at (epoch, samples seen).

    A single pass covers all epochs: loader workers prefetch across the end of an epoch.

    Parameters
    ----------
    windows_of : callable
        Returns the windows of an epoch; deterministic.
    batch_size : int
        Over all ranks; each rank gets its share from
        :class:`fmritok.trainer.training.distributed.ShareOfBatches`.
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


def keyed_generator(*key: int) -> np.random.Generator:
    """Return a generator for a key; generators of different keys are independent."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _draws(generator: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return generator.integers(0, 2**63 - 1, count)
