"""Open files of chunks, on a disk or an object store, and the thread pool that reads them.

Each process caches its most recently used shards, open and with their index. Forked children start
with an empty cache.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.chunks.codec import ABSENT, CRC_BYTES, ENTRY_BYTES, Bytes, crc
from fmritok.pipeline.store.location import Location
from fmritok.quantities import counted

__all__ = [
    "NEXT_STEP",
    "ChunkFile",
    "for_each",
    "forget",
    "forget_all",
    "open_file",
    "open_shard",
    "use_threads",
]

NEXT_STEP = "Run `fmritok verify --drop`, then tokenize again: only damaged runs are redone."
_OPEN_FILES = 64
_IOV_MAX = 512


class ChunkFile:
    """An open file of chunks, with the offset and size of each chunk.

    Parameters
    ----------
    path : str
        File name for errors.
    content : _Descriptor or _Object
        The bytes of the file.
    n_chunks : int, optional
        Chunks per shard. Default: the whole file is one chunk.
    """

    def __init__(
        self, path: str, content: _Descriptor | _Object, n_chunks: int | None = None
    ) -> None:
        self.path, self._content = path, content
        self.stamp = content.stamp
        self.spans: list[tuple[int, int] | None] = [(0, content.size)]
        if n_chunks is not None:
            self.spans = self._read_index(n_chunks, content.size)

    def read_into(self, buffers: Sequence[Bytes], offset: int) -> None:
        """Fill buffers with the bytes that begin at ``offset``."""
        views = [memoryview(buffer) for buffer in buffers]  # type: ignore[arg-type]
        while views:
            done = self._content.read_into(views[:_IOV_MAX], offset)
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
        body = size - n_chunks * ENTRY_BYTES - CRC_BYTES
        if body < 0:
            got = counted(size, "byte")
            raise StoreError(expected("Shard", self.path, "an index", got, NEXT_STEP))
        data = np.empty(size - body, np.uint8)
        self.read_into([data], body)
        if crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:].tobytes():
            raise StoreError(
                expected("Index of shard", self.path, "its checksum", "another", NEXT_STEP)
            )
        entries = data[:-CRC_BYTES].view("<u8").reshape(n_chunks, 2).tolist()
        spans = [None if ABSENT in entry else (entry[0], entry[1]) for entry in entries]
        if any(span and sum(span) > body for span in spans):
            raise StoreError(
                expected("Index of shard", self.path, "chunks within the file",
                         "one beyond its end", NEXT_STEP)
            )  # fmt: skip
        return spans


class _Descriptor:
    """An open file on a local disk, closed when it is garbage-collected."""

    def __init__(self, location: Location, key: str) -> None:
        self._file = location.open_file(key)
        status = os.fstat(self._file.fileno())
        self.size, self.stamp = status.st_size, _stamp(status)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), views, offset)
        data = os.pread(self._file.fileno(), len(views[0]), offset)
        views[0][: len(data)] = data
        return len(data)


class _Object:
    """An object of an object store, read by ranges."""

    stamp = None

    def __init__(self, location: Location, key: str) -> None:
        self._location, self._key = location, key
        self.size = location.size(key)

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        wanted = sum(len(view) for view in views)
        data = memoryview(self._location.read_range(self._key, offset, offset + wanted))
        done = 0
        for view in views:
            part = data[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return done


class _Process:
    """Cache of open files and thread pool of one process. Forked children get new, empty ones."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, ChunkFile] = OrderedDict()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def open_shard(self, location: Location, key: str, n_chunks: int) -> ChunkFile:
        """Return a shard from the cache, or open it. Replaced files are opened again."""
        path = f"{location.url}/{key}"
        stamp = _stamp(os.stat(path)) if location.is_local else None
        with self._lock:
            file = self._shards.pop(path, None)
            if file is None or file.stamp != stamp:
                file = ChunkFile(path, _content(location, key), n_chunks)
            self._shards[path] = file
            if len(self._shards) > _OPEN_FILES:
                self._shards.popitem(last=False)
            return file

    def forget(self, path: str) -> None:
        """Remove a file from the cache."""
        with self._lock:
            self._shards.pop(path, None)

    def clear(self) -> None:
        """Remove all shards from the cache. Shards in use close later."""
        with self._lock:
            self._shards.clear()

    def pool(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pool[0] != threads:
                self._pool = (threads, ThreadPoolExecutor(threads, "fmritok-read"))
            return self._pool[1]


_this_process = _Process()
_threads = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def use_threads(number: int) -> None:
    """Set the number of reading threads of this process. Default: its cores, at most 8."""
    global _threads
    _threads = number


def open_shard(location: Location, key: str, n_chunks: int) -> ChunkFile:
    """Open a shard through the cache of this process.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    """
    return _process().open_shard(location, key, n_chunks)


def forget_all() -> None:
    """Empty the cache. Verification must read the current files."""
    _process().clear()


def open_file(location: Location, key: str) -> ChunkFile:
    """Open a file with a single chunk.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    """
    return ChunkFile(f"{location.url}/{key}", _content(location, key))


def forget(file: ChunkFile) -> None:
    """Remove a shard from the cache. Its index may be outdated."""
    _process().forget(file.path)


def _process() -> _Process:
    global _this_process
    if _this_process.pid != os.getpid():
        _this_process = _Process()
    return _this_process


def for_each(work: Callable[[Any], None], items: Sequence[Any], *, threaded: bool) -> None:
    """Call a function for each item, in this thread or in the thread pool."""
    if threaded and _threads > 1 and len(items) > 1:
        list(_process().pool(_threads).map(work, items))
    else:
        for item in items:
            work(item)


def _content(location: Location, key: str) -> _Descriptor | _Object:
    return _Descriptor(location, key) if location.is_local else _Object(location, key)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size
