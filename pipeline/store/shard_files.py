"""What a process holds open of a store: shards with their indices, and threads to read with.

A forked child starts with nothing of it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import StoreError, expected

__all__ = [
    "CRC_BYTES", "NEXT_STEP", "Bytes", "ShardFile", "crc", "for_each", "open_shard", "use_threads",
]  # fmt: skip

CRC_BYTES = 4
NEXT_STEP = "Run `fmritok verify`; with --drop, tokenizing again redoes what is damaged."
_ABSENT = 2**64 - 1  # offset and size of a chunk that holds nothing but the fill value
_ENTRY_BYTES = 16
_OPEN_FILES = 64
_IOV_MAX = 512

Bytes = npt.NDArray[np.uint8]


class ShardFile:
    """An open file, and where its chunks are; closed when the last reader lets go of it.

    Parameters
    ----------
    path : str
    n_chunks : int, optional
        Chunks of a shard; by default the whole file is one chunk.
    """

    def __init__(self, path: str, n_chunks: int | None = None) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        self.stamp = _stamp(status)
        self.places: list[tuple[int, int] | None] = [(0, status.st_size)]
        if n_chunks is not None:
            self.places = self._read_index(n_chunks, status.st_size)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read_into(self, buffers: Sequence[Bytes], offset: int) -> None:
        """Fill buffers with the bytes from ``offset`` on."""
        views = [memoryview(buffer) for buffer in buffers]  # type: ignore[arg-type]
        while views:
            done = os.preadv(self.descriptor, views[:_IOV_MAX], offset)
            if not done:
                raise StoreError(
                    expected("File", self.path, "bytes", f"its end at {offset}", NEXT_STEP)
                )
            offset += done
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]

    def _read_index(self, n_chunks: int, size: int) -> list[tuple[int, int] | None]:
        data = np.empty(n_chunks * _ENTRY_BYTES + CRC_BYTES, np.uint8)
        body = size - len(data)
        if body < 0:
            raise StoreError(expected("Shard", self.path, "an index", f"{size} bytes", NEXT_STEP))
        self.read_into([data], body)
        if crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:].tobytes():
            raise StoreError(
                expected("Index of shard", self.path, "its checksum", "another", NEXT_STEP)
            )
        entries = data[:-CRC_BYTES].view("<u8").reshape(n_chunks, 2).tolist()
        places = [None if _ABSENT in entry else (entry[0], entry[1]) for entry in entries]
        if any(place and sum(place) > body for place in places):
            raise StoreError(
                expected("Index of shard", self.path, "chunks within the file",
                         "one beyond its end", NEXT_STEP)
            )  # fmt: skip
        return places


class _Process:
    """What one process holds open: a forked child starts with nothing, not even a held lock."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, ShardFile] = OrderedDict()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def open_shard(self, path: str, n_chunks: int) -> ShardFile | None:
        """Open a shard, unless it is open already and was not replaced since; None without one."""
        try:
            stamp = _stamp(os.stat(path))
        except FileNotFoundError:
            return None
        with self._lock:
            file = self._shards.pop(path, None)
            if file is None or file.stamp != stamp:
                file = ShardFile(path, n_chunks)
            self._shards[path] = file
            if len(self._shards) > _OPEN_FILES:
                self._shards.popitem(last=False)
            return file

    def pool(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pool[0] != threads:
                self._pool = (threads, ThreadPoolExecutor(threads, "fmritok-read"))
            return self._pool[1]


_this_process = _Process()
_threads = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def use_threads(number: int) -> None:
    """Set how many threads this process reads with; by default as many as it has cores, up to 8."""
    global _threads
    _threads = number


def open_shard(path: str, n_chunks: int) -> ShardFile | None:
    """Open a shard, once for all that read it in this process; None if there is none."""
    return _process().open_shard(path, n_chunks)


def _process() -> _Process:
    global _this_process
    if _this_process.pid != os.getpid():
        _this_process = _Process()
    return _this_process


def for_each(work: Callable[[Any], None], items: Sequence[Any], *, threaded: bool) -> None:
    """Do the work, in this thread alone or on several."""
    if threaded and _threads > 1 and len(items) > 1:
        list(_process().pool(_threads).map(work, items))
    else:
        for item in items:
            work(item)


def crc(data: Bytes) -> bytes:
    """Return the crc32c of bytes, as it is stored behind them."""
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size
