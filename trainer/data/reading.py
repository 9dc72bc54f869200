"""Read windows from the token store in loader workers.

Workers are stateless: each request (:class:`~fmritok.trainer.data.windows.Request`) names one
window. The sampler alone holds order and position, for any number of workers and exact resume.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from fmritok.device import send
from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.reader import RunStatistics, TokenGroup
from fmritok.trainer.data.loader import batch_loader
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.data.windows import Request, RunIndex
from fmritok.trainer.faults import is_out_of_memory

__all__ = ["Batch", "WindowReader"]

_CACHED_RUNS = 64  # 1 MB each at 27 x 3072; more of smaller tokens
_CACHED_BYTES = 64 << 20
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


class Batch(NamedTuple):
    """Windows of one step in the store dtype; the model dequantizes on its device."""

    tokens: Tensor
    """stored values [B T S D], int8 or float16; 0 in padding"""
    mean: Tensor
    """run's mean [B S D], float32"""
    std: Tensor
    """run's standard deviation [B S D], float32"""
    scale: Tensor | None
    """step of the stored integers [B S D], float32; None for float16"""
    times: Tensor
    """time since the first frame of the window [B T], seconds, float32"""
    valid: Tensor | None
    """False in padded frames [B T], bool; None without padding"""
    runs: Tensor
    """position in the run index [B], int64"""
    draws: Tensor
    """each window's random number [B], int64"""
    epoch: int
    seen: int
    """samples of the epoch read so far, including this batch"""
    n_frames: int
    """frames in the batch without padding"""
    labels: Tensor | None = None
    """class of each window's event [B], int64; None without events"""
    host_valid: Tensor | None = None
    """``valid`` as it was before :meth:`to`"""

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device; random numbers stay on the host, which alone reads them.

        So does a copy of ``valid``: what follows from lengths is computed on the host, which
        would otherwise wait for the device.
        """
        moved: dict[str, Any] = {
            name: send(value, device)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and name not in ("draws", "host_valid")
        }
        host_valid = self.valid if self.host_valid is None else self.host_valid
        return self._replace(**moved, host_valid=host_valid)


class WindowReader(Dataset[Batch]):
    """Reads requested windows; every process opens the store itself.

    Parameters
    ----------
    group : TokenGroup or MixedGroup
    index : RunIndex
    """

    def __init__(self, group: TokenGroup | MixedGroup, index: RunIndex) -> None:
        self.group, self.index = group, index
        self.groups = group.groups if isinstance(group, MixedGroup) else (group,)
        of_run = 3 * 4 * self.groups[0].n_tokens * self.groups[0].dim
        cached = max(_CACHED_RUNS, _CACHED_BYTES // of_run)
        self._statistics = lru_cache(cached)(self._read_statistics)

    def __getstate__(self) -> dict[str, Any]:
        # The table of runs is not sent to workers.
        return {"groups": self.groups, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["groups"][0], state["index"])  # type: ignore[misc]
        self.groups = state["groups"]

    def __getitems__(self, requests: list[Request]) -> Batch:
        """Read a batch, each window directly into its row."""
        tokens = _new_batch(self.groups[0], requests)
        values = tokens.numpy()
        for neighbours in _neighbours(requests):
            run, low = neighbours[0][1].run, min(r.first for _, r in neighbours)
            high = max(r.first + r.n_frames for _, r in neighbours)
            if len(neighbours) == 1:
                place, request = neighbours[0]
                self.read(run, low, high - low, values[place, : request.n_frames])
                continue
            frames = self.read(run, low, high - low)
            for place, request in neighbours:
                start = request.first - low
                values[place, : request.n_frames] = frames[start : start + request.n_frames]
        for place, request in enumerate(requests):
            values[place, request.n_frames :] = 0
        statistics = [self._statistics(request.run) for request in requests]
        trs = [float(self.index.tr[request.run]) for request in requests]
        return _batch(requests, tokens, statistics, trs)

    def loader(
        self, batches: Iterable[list[Request]], *, workers: int, pin_memory: bool = False
    ) -> Iterable[Batch]:
        """Make a loader of the requested batches; several of one reader share its cache.

        Raises
        ------
        ConfigError
            If workers are wanted for a store that lives in this process's memory.
        """
        locations = [each.location for each in self.groups]
        return batch_loader(self, locations, batches, workers=workers, pin_memory=pin_memory)

    def read(
        self, run: int, first: int, n_frames: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Return stored tokens of a run's consecutive frames (n_frames, n_tokens, dim).

        Raises
        ------
        StoreError
            If they cannot be read or differ from their checksum; names the run.
        """
        group = self._group(run)
        start = int(self.index.start[run]) + first
        with self._naming(run, f"frames {first}:{first + n_frames}"):
            return group.read(start, n_frames, out)

    def _group(self, run: int) -> TokenGroup:
        group: TokenGroup = self.groups[int(self.index.store[run])]
        return group

    def _read_statistics(self, run: int) -> RunStatistics:
        with self._naming(run, "mean, deviation and scale"):
            return self._group(run).statistics(int(self.index.row[run]))

    @contextmanager
    def _naming(self, run: int, what: str) -> Iterator[None]:
        """Turn a read error into one that names the run."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error) or getattr(error, "errno", None) in _TOO_MANY_FILES:
                raise  # a fault of the machine, not of the run
            location = self._group(run).location
            step = "Run `fmritok verify --drop`, and tokenize again."
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                step = "Check the disk or the network that the store is on; its runs may be whole."
            raise StoreError(
                expected("Tokens of run", f"{self.index.run_id[run]} in {location}",
                         f"readable {what}", error, step)
            ) from error  # fmt: skip


def _batch(
    requests: list[Request], tokens: Tensor, statistics: list[RunStatistics], trs: list[float]
) -> Batch:
    """Make a batch from the parts of its windows."""
    lengths = np.array([request.n_frames for request in requests])
    frames = np.arange(tokens.shape[1])
    times = np.array(trs)[:, None] * frames
    scales = [m.scale for m in statistics if m.scale is not None]
    labels = torch.tensor([request.label for request in requests])
    return Batch(
        tokens=tokens,
        mean=torch.from_numpy(np.stack([m.mean for m in statistics])),
        std=torch.from_numpy(np.stack([m.std for m in statistics])),
        scale=torch.from_numpy(np.stack(scales)) if scales else None,
        times=torch.from_numpy(times.astype(np.float32)),
        valid=torch.from_numpy(frames < lengths[:, None])
        if (lengths < len(frames)).any()
        else None,
        runs=torch.tensor([request.run for request in requests]),
        draws=torch.tensor([request.draw for request in requests]),
        epoch=requests[-1].epoch,
        seen=requests[-1].sample + 1,
        n_frames=int(lengths.sum()),
        labels=labels if (labels >= 0).all() else None,
    )


def _new_batch(group: TokenGroup, requests: list[Request]) -> Tensor:
    """Allocate the tokens of a batch [B T S D]; in a worker, in shared memory."""
    shape = (len(requests), max(r.n_frames for r in requests), group.n_tokens, group.dim)
    dtype = torch.from_numpy(np.empty(0, group.precision)).dtype
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage: Any = torch.UntypedStorage
    shared = storage._new_shared(math.prod(shape) * dtype.itemsize)
    tokens: Tensor = torch.empty(0, dtype=dtype).set_(shared).view(shape)
    return tokens


def _neighbours(requests: list[Request]) -> Iterator[list[tuple[int, Request]]]:
    """Yield groups of windows (with their rows) that one read serves without extra frames."""
    together: list[tuple[int, Request]] = []
    low = high = frames = 0
    for place, request in sorted(
        enumerate(requests), key=lambda each: (each[1].run, each[1].first)
    ):
        first, end = request.first, request.first + request.n_frames
        frames += request.n_frames
        fits = bool(together) and request.run == together[0][1].run
        if fits and max(high, end) - min(low, first) <= frames:
            together.append((place, request))
            low, high = min(low, first), max(high, end)
            continue
        if together:
            yield together
        together, low, high, frames = [(place, request)], first, end, request.n_frames
    yield together
