"""Read windows straight from the token store, in loader processes, with exact resume.

Workers are told which window to read (:class:`~fmritok.trainer.windows.Request`), so they hold no
state: order and position belong to the sampler alone, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fmritok.pipeline.errors import expected
from fmritok.pipeline.store.reader import RunMoments, TokenGroup
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.windows import Request, RunIndex

__all__ = ["Batch", "Meter", "Rate", "WindowDataset", "collate", "window_loader"]

_CACHED_RUNS = 64  # 1 MB each at 27 x 3072


class Window(NamedTuple):
    """One window as a worker reads it."""

    request: Request
    tokens: npt.NDArray[Any]
    moments: RunMoments
    tr: float


class Batch(NamedTuple):
    """Windows of one step, as stored: the model turns them into values on its device.

    Dimensions: B windows, T frames, S tokens of a frame (cells), D features.
    """

    tokens: Tensor
    """stored values [B T S D], int8 or float16; 0 where a short window is padded"""
    mean: Tensor
    """run's mean [B S D], float32"""
    std: Tensor
    """run's standard deviation [B S D], float32"""
    scale: Tensor | None
    """step of the stored integers [B S D], float32; None for float16"""
    times: Tensor
    """time since the first frame of the window [B T], seconds, float32"""
    valid: Tensor | None
    """frames that are not padding [B T], bool; None if there is no padding"""
    runs: Tensor
    """position in the run index [B], int64"""
    draws: Tensor
    """each window's random number [B], int64"""
    epoch: int
    seen: int
    """samples of the epoch that have been read with this batch"""
    n_frames: int
    """frames in the batch, padding not counted"""

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**moved)


class WindowDataset(Dataset[Window]):
    """Reads the window of a request; opened anew in every process.

    Parameters
    ----------
    group : TokenGroup
    index : RunIndex
    """

    def __init__(self, group: TokenGroup, index: RunIndex) -> None:
        self.group, self.index = group, index
        self._moments = lru_cache(_CACHED_RUNS)(group.moments)

    def __getstate__(self) -> dict[str, Any]:
        return {"group": self.group, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["group"], state["index"])  # type: ignore[misc]

    def __getitem__(self, request: Request) -> Window:
        run = request.run
        tokens = self.group.read(int(self.index.start[run]) + request.first, request.n_frames)
        moments = self._moments(int(self.index.row[run]))
        return Window(request, tokens, moments, float(self.index.tr[run]))


def collate(windows: list[Window]) -> Batch:
    """Stack windows; shorter ones are padded at the end."""
    requests = [window.request for window in windows]
    lengths = np.array([request.n_frames for request in requests])
    longest = int(lengths.max())
    shape = (len(windows), longest, *windows[0].tokens.shape[1:])
    tokens = np.zeros(shape, windows[0].tokens.dtype)
    for padded, window in zip(tokens, windows, strict=True):
        padded[: len(window.tokens)] = window.tokens
    frames = np.arange(longest)
    times = np.array([window.tr for window in windows])[:, None] * frames
    moments = [window.moments for window in windows]
    scales = [m.scale for m in moments if m.scale is not None]
    return Batch(
        tokens=torch.from_numpy(tokens),
        mean=torch.from_numpy(np.stack([m.mean for m in moments])),
        std=torch.from_numpy(np.stack([m.std for m in moments])),
        scale=torch.from_numpy(np.stack(scales)) if scales else None,
        times=torch.from_numpy(times.astype(np.float32)),
        valid=torch.from_numpy(frames < lengths[:, None]) if (lengths < longest).any() else None,
        runs=torch.tensor([request.run for request in requests]),
        draws=torch.tensor([request.draw for request in requests]),
        epoch=requests[-1].epoch,
        seen=requests[-1].sample + 1,
        n_frames=int(lengths.sum()),
    )


def window_loader(
    group: TokenGroup,
    index: RunIndex,
    batches: Iterable[list[Request]],
    *,
    workers: int,
    pin_memory: bool = False,
) -> Iterable[Batch]:
    """Make a loader of the requested batches, in their order.

    Raises
    ------
    ConfigError
        If workers are wanted for a store that lives in this process's memory.
    """
    if workers and not group.location.is_shared:
        raise ConfigError(
            expected("Option", "--workers", f"0, because {group.location} belongs to this process",
                     workers, "Leave --workers away.")
        )  # fmt: skip
    # forkserver: a fork would copy zarr's running event loop, and the child could hang.
    several: dict[str, Any] = {
        "multiprocessing_context": "forkserver",
        "persistent_workers": True,
        "prefetch_factor": 2,
        "worker_init_fn": _prepare_worker,
    }
    loader: DataLoader[Any] = DataLoader(
        WindowDataset(group, index),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # never touch the global one
        **(several if workers else {}),
    )
    return loader


class Meter:
    """Hands out batches, and measures how long each step took and how long it waited for data.

    Parameters
    ----------
    batches : iterable of Batch
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)
        self._start = self._waited = 0.0
        self._steps = 0
        self._total = np.zeros(3)

    def next(self) -> Batch:
        """Wait for the next batch."""
        self._start = time.perf_counter()
        batch = next(self._batches)
        self._waited = time.perf_counter() - self._start
        return batch

    def finish(self, n_tokens: int) -> Rate:
        """End the step that :meth:`next` began, and return its rate."""
        step = np.array([n_tokens, time.perf_counter() - self._start, self._waited])
        self._steps += 1
        if self._steps > 1:  # the first one waits for the workers to start
            self._total += step
        return Rate.of(step)

    def close(self) -> None:
        """Let go of the loader, which ends its workers: they ignore all signals."""
        self._batches = iter(())

    @property
    def overall(self) -> Rate:
        """Rate of all steps but the first."""
        return Rate.of(self._total)


class Rate(NamedTuple):
    """How fast training went."""

    tokens_per_s: float
    stall_share: float
    """share of the time spent waiting for data"""

    @classmethod
    def of(cls, figures: npt.NDArray[np.float64]) -> Rate:
        """Take the rate from tokens, seconds and seconds waited."""
        tokens, seconds, waited = figures.tolist()
        return cls(tokens / seconds, waited / seconds) if seconds else cls(0.0, 0.0)


def _prepare_worker(_: int) -> None:
    torch.set_num_threads(1)
    zarr.config.set({"threading.max_workers": 1})
    # Ctrl-C and a cluster's SIGTERM reach every process; the trainer alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """End this worker when the trainer is gone; torch's own watchdog sees the forkserver only."""
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)
