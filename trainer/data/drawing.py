"""Choose the windows of an epoch and their order, as pure functions of (seed, epoch).

Windows locked to events are in :mod:`fmritok.trainer.data.events`, those of several stores in
:mod:`fmritok.trainer.data.mixing`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NotRequired, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import ConfigError

__all__ = [
    "WindowOptions",
    "all_windows",
    "draw_windows",
    "keyed_generator",
    "random_windows",
    "validation_windows",
]

_TRAIN, _VALIDATION = 0, 1  # keys that keep the random streams apart


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


def keyed_generator(*key: int) -> np.random.Generator:
    """Return a generator for a key; generators of different keys are independent."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _draws(generator: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return generator.integers(0, 2**63 - 1, count)
