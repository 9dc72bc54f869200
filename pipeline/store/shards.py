"""Read rows of a local array straight from its files, several times faster than zarr-python.

Only what fmritok writes is read here: chunks along the first axis, as little-endian numbers or zstd
frames, each followed by its crc32c, in a file of its own or in a shard with the index at its end.
:func:`open_direct` returns None for anything else, which zarr-python reads; both give the same
numbers, and both refuse damaged bytes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import StoreError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.shard_files import (
    CRC_BYTES,
    NEXT_STEP,
    Bytes,
    ShardFile,
    crc,
    for_each,
    open_shard,
)  # fmt: skip

__all__ = ["DirectArray", "open_direct"]

_TYPES = {"int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"}
_READ_BYTES = 2 * 2**20  # adjacent chunks are read together up to about this size
_THREADED_BYTES = 2**21  # for less, waking threads costs more than they save


@dataclass(frozen=True)
class DirectArray:
    """A local array that is read from its files; picklable, and holds nothing open.

    Attributes
    ----------
    folder : str
    shape : tuple of int
    dtype : np.dtype
    fill : float
        Value of what was never written.
    chunk_rows, file_rows : int
        Rows of a chunk, and of a file.
    is_sharded, is_compressed : bool
    """

    folder: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: float
    chunk_rows: int
    file_rows: int
    is_sharded: bool
    is_compressed: bool

    def read(
        self, start: int, n_rows: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Return consecutive rows.

        Parameters
        ----------
        start, n_rows : int
            Rows that lie within the array.
        out : np.ndarray of shape (n_rows, ...), optional
            Where to put them, in C order; by default a new array.

        Returns
        -------
        np.ndarray of shape (n_rows, ...)

        Raises
        ------
        StoreError
            If a chunk or an index differs from its checksum, or a file is cut off.
        """
        stop, shape = start + n_rows, (n_rows, *self.shape[1:])
        if start < 0 or stop > self.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {self.shape[0]}")
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must hold {self.dtype} of shape {shape} in C order")
        if not out.size:
            return out
        rows = out.reshape(n_rows, -1).view(np.uint8)
        files: dict[int, ShardFile | None] = {}
        reads: list[list[_Chunk]] = []
        for number in range(start // self.chunk_rows, (stop - 1) // self.chunk_rows + 1):
            in_file, position = divmod(number, self.file_rows // self.chunk_rows)
            if in_file not in files:
                files[in_file] = self._open(in_file)
            file = files[in_file]
            first = number * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            place = None if file is None else file.places[position]
            if file is None or place is None:
                out[low - start : high - start] = self.fill
                continue
            wanted = rows[low - start : high - start]
            chunk = _Chunk(file, place[0], place[1], low - first, wanted)
            if reads and _continues(reads[-1], chunk):
                reads[-1].append(chunk)
            else:
                reads.append([chunk])
        for_each(self._read_adjacent, reads, threaded=out.nbytes >= _THREADED_BYTES)
        return out

    def _open(self, number: int) -> ShardFile | None:
        path = os.path.join(self.folder, "c", str(number), *["0"] * (len(self.shape) - 1))
        if self.is_sharded:
            return open_shard(path, self.file_rows // self.chunk_rows)
        try:
            return ShardFile(path)
        except FileNotFoundError:
            return None

    def _read_adjacent(self, chunks: list[_Chunk]) -> None:
        """Read chunks that follow each other in a file, check them, and put their rows in place."""
        row_bytes = chunks[0].rows.shape[1]
        chunk_bytes = self.chunk_rows * row_bytes
        # Wanted whole, a chunk goes to its place at once.
        places = [
            chunk.rows.reshape(-1)
            if len(chunk.rows) == self.chunk_rows
            else np.empty(chunk_bytes, np.uint8)
            for chunk in chunks
        ]
        file, offset = chunks[0].file, chunks[0].offset
        if self.is_compressed:
            data = _scratch(sum(chunk.size for chunk in chunks))
            file.read_into([data], offset)
            for chunk, place in zip(chunks, places, strict=True):
                stored = data[chunk.offset - offset :][: chunk.size]
                _check(chunk, stored[:-CRC_BYTES], stored[-CRC_BYTES:])
                _decompress(chunk, stored[:-CRC_BYTES], place)
        else:
            sums = np.empty((len(chunks), CRC_BYTES), np.uint8)
            for chunk in chunks:
                if chunk.size != chunk_bytes + CRC_BYTES:
                    raise _damaged(chunk, f"a chunk of {chunk_bytes} bytes", chunk.size)
            file.read_into(
                [part for pair in zip(places, sums, strict=True) for part in pair], offset
            )
            for chunk, place, stored in zip(chunks, places, sums, strict=True):
                _check(chunk, place, stored)
        for chunk, place in zip(chunks, places, strict=True):
            if len(chunk.rows) != self.chunk_rows:
                chunk.rows[:] = place.reshape(-1, row_bytes)[chunk.skip :][: len(chunk.rows)]


def open_direct(location: Location, key: str) -> DirectArray | None:
    """Open an array for direct reading.

    Parameters
    ----------
    location : Location
    key : str
        Path of the array within the store.

    Returns
    -------
    DirectArray or None
        None if the store is not local, or the array is not stored in the way that is read here.
    """
    if not location.is_local or sys.byteorder != "little" or not hasattr(os, "preadv"):
        return None
    folder = Path(location.url, key)
    try:
        return _parse(str(folder), json.loads((folder / "zarr.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # zarr-python says what is wrong with it, if anything is


def _parse(folder: str, metadata: dict[str, Any]) -> DirectArray | None:
    shape = tuple(metadata["shape"])
    grid = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    chunk, codecs = grid, metadata["codecs"]
    is_sharded = codecs[0]["name"] == "sharding_indexed"
    fits = [
        metadata["zarr_format"] == 3,
        metadata["data_type"] in _TYPES,
        metadata["chunk_grid"]["name"] == "regular",
        metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}},
        type(metadata["fill_value"]) in (int, float),
        not metadata.get("storage_transformers"),
    ]
    if is_sharded:
        inner = codecs[0]["configuration"]
        fits += [
            len(codecs) == 1,
            inner.get("index_location", "end") == "end",
            _names(inner["index_codecs"]) == ["bytes", "crc32c"],
        ]
        chunk, codecs = tuple(inner["chunk_shape"]), inner["codecs"]
    fits += [
        grid[1:] == chunk[1:] == shape[1:],
        grid[0] % chunk[0] == 0,
        _names(codecs) in (["bytes", "crc32c"], ["bytes", "zstd", "crc32c"]),
    ]
    if not all(fits):
        return None
    return DirectArray(
        folder=folder,
        shape=shape,
        dtype=np.dtype(metadata["data_type"]),
        fill=metadata["fill_value"],
        chunk_rows=chunk[0],
        file_rows=grid[0],
        is_sharded=is_sharded,
        is_compressed=len(codecs) == 3,
    )


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    """Return the names of codecs; big-endian ones get another."""
    return [
        c["name"] if c.get("configuration", {}).get("endian") != "big" else "big-endian"
        for c in codecs
    ]


class _Chunk(NamedTuple):
    """Where one chunk lies in its file, and which of its rows are wanted."""

    file: ShardFile
    offset: int
    size: int
    """bytes, checksum included"""
    skip: int
    """rows of the chunk before the wanted ones"""
    rows: Bytes
    """where the wanted rows go [n_rows, bytes of a row]"""


_local = threading.local()


def _continues(read: list[_Chunk], chunk: _Chunk) -> bool:
    last = read[-1]
    return (
        last.file is chunk.file
        and last.offset + last.size == chunk.offset
        and chunk.offset + chunk.size - read[0].offset <= _READ_BYTES
    )


def _scratch(size: int) -> Bytes:
    """Return a thread's own buffer for compressed bytes: new memory costs more than reading."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _local.buffer = np.empty(max(size, _READ_BYTES), np.uint8)
    return buffer[:size]


def _check(chunk: _Chunk, data: Bytes, stored: Bytes) -> None:
    if crc(data) != stored.tobytes():
        raise _damaged(chunk, "a chunk that matches its checksum", "another checksum")


def _decompress(chunk: _Chunk, frame: Bytes, place: Bytes) -> None:
    from numcodecs import zstd

    if _content_size(frame) not in (len(place), None):
        raise _damaged(chunk, f"a frame of {len(place)} bytes", _content_size(frame))
    try:
        zstd.decompress(frame, place)
    except (RuntimeError, ValueError) as error:
        raise _damaged(chunk, "a zstd frame", error) from error


def _content_size(frame: Bytes) -> int | None:
    """Return how many bytes a zstd frame says it holds (RFC 8878, 3.1.1.1)."""
    if len(frame) < 6:
        return 0
    flags = int(frame[4])
    width = (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    begin = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]
    if not width:
        return None
    return int.from_bytes(frame[begin : begin + width].tobytes(), "little") + 256 * (width == 2)


def _damaged(chunk: _Chunk, wanted: str, got: object) -> StoreError:
    where = f"{chunk.file.path} at byte {chunk.offset}"
    return StoreError(expected("Chunk", where, wanted, got, NEXT_STEP))
