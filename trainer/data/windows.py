"""Which windows are read, and in what order: pure functions of (seed, epoch).

:func:`random_windows` and :func:`all_windows` are here; :mod:`fmritok.trainer.data.events` has
windows locked to events, :mod:`fmritok.trainer.data.mixing` those of several stores. Each gives an
epoch's :class:`Windows`; :class:`WindowBatches` hands them out, from any sample on.
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
    label: int = -1
    """class of the event that the window is locked to; -1 if it is not"""
    read: int = -1
    """number of the read within the epoch that serves the window; -1 if it has one of its own"""


@dataclass(frozen=True)
class RunIndex:
    """Where runs are in a token group; arrays only, so that workers copy no Python objects.

    Attributes
    ----------
    run_id : np.ndarray of shape (n_runs,), str
    row, start, n_frames : np.ndarray of shape (n_runs,), int64
    tr : np.ndarray of shape (n_runs,), float64
        Seconds between frames.
    store : np.ndarray of shape (n_runs,), int64
        Which store of a mix holds the run; 0 where there is one.
    """

    run_id: npt.NDArray[np.str_]
    row: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    n_frames: npt.NDArray[np.int64]
    tr: npt.NDArray[np.float64]
    store: npt.NDArray[np.int64]

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
        """Put windows of one epoch, of as many windows per read, one behind the other."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
        }
        return replace(parts[0], **columns)

    def __len__(self) -> int:
        return len(self.run)

    def take(self, positions: npt.NDArray[np.int64]) -> Windows:
        """Return the windows at the given positions, in that order; reads stay whole."""
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
        # The starts of a read lie in a range that is placed at random around one start, drawn as
        # a single window's is. Within the range that start is equally likely to be anywhere; so
        # are the others: every window is distributed as single ones are.
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
    """Return every run's whole windows in order, from its first frame on.

    Parameters
    ----------
    index : RunIndex
    window : int
        Frames; a run that is shorter gives itself.
    stride : int, optional
        Frames from the start of a window to the next; by default they do not overlap.
    """
    stride = stride or window
    count = np.maximum((index.n_frames - window) // stride + 1, 1)
    run = np.repeat(np.arange(len(index)), count)
    first = stride * (np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count))
    return Windows.of(run, first, np.minimum(window, index.n_frames)[run], np.zeros_like(run))


def validation_windows(index: RunIndex, *, window: int, at_most: int, seed: int) -> Windows:
    """Return all non-overlapping windows, or evenly spread ones of them; always the same."""
    windows = all_windows(index, window=window)
    count = min(at_most, len(windows))
    windows = windows.take(np.linspace(0, len(windows) - 1, count).round().astype(np.int64))
    return replace(windows, draw=_draws(keyed_generator(seed, _VALIDATION), count))


class WindowBatches:
    """Batch sampler that goes on from (epoch, samples seen) for as many epochs as are asked for.

    One pass for the whole training: loader workers read ahead across the end of an epoch.

    Parameters
    ----------
    windows_of : callable
        Gives the windows of an epoch, and always the same ones.
    batch_size : int
        Over all ranks; each gets its share by
        :class:`fmritok.trainer.training.distributed.ShareOfBatches`.
    epoch, seen : int
        Where to go on.
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
    """Return the random numbers of a key; those of other keys are independent of them."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _draws(generator: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return generator.integers(0, 2**63 - 1, count)
