"""Read rows of an array straight from its files, several times faster than zarr-python.

Only what fmritok writes is read here: chunks along the first axis, as little-endian numbers or zstd
frames, each followed by its crc32c, in a file of its own or in a shard with the index at its end.
A chunk that is absent, damaged, or not the one that the caller knows by its checksum is an error.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.chunks.codec import CRC_BYTES, Bytes, crc, decompress, most_stored
from fmritok.pipeline.store.chunks.shard_files import (
    NEXT_STEP,
    ChunkFile,
    for_each,
    forget,
    open_file,
    open_shard,
)  # fmt: skip
from fmritok.pipeline.store.location import Location

__all__ = ["DirectArray"]

_READ_BYTES = 2 * 2**20  # adjacent chunks are read together up to about this size
_THREADED_BYTES = 2**21  # for less, waking threads costs more than they save


@dataclass(frozen=True)
class DirectArray:
    """An array that is read from its files; picklable, and holds nothing open.

    Attributes
    ----------
    location : Location
    key : str
        The array's path in the store.
    shape : tuple of int
    dtype : np.dtype
    chunk_rows, file_rows : int
        Rows of a chunk, and of a file.
    is_sharded, is_compressed : bool
    """

    location: Location
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    file_rows: int
    is_sharded: bool
    is_compressed: bool

    def file_key(self, number: int) -> str:
        """Return the key of the file that holds rows from ``number * file_rows`` on."""
        return "/".join([self.key, "c", str(number), *["0"] * (len(self.shape) - 1)])

    def read(
        self,
        start: int,
        n_rows: int,
        out: npt.NDArray[Any] | None = None,
        crcs: npt.NDArray[np.uint32] | None = None,
    ) -> npt.NDArray[Any]:
        """Return consecutive rows.

        Parameters
        ----------
        start, n_rows : int
            Rows that lie within the array.
        out : np.ndarray of shape (n_rows, ...), optional
            Where to put them, in C order; by default a new array.
        crcs : np.ndarray of shape (n_chunks,), uint32, optional
            The crc32c that each chunk of the array must have.

        Returns
        -------
        np.ndarray of shape (n_rows, ...)

        Raises
        ------
        StoreError
            If a chunk is absent, a chunk or an index differs from its checksum, or a file is cut
            off.
        """
        shape = (n_rows, *self.shape[1:])
        if start < 0 or start + n_rows > self.shape[0]:
            raise IndexError(f"rows {start}:{start + n_rows} of {self.shape[0]}")
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must hold {self.dtype} of shape {shape} in C order")
        if out.size:
            try:
                self._read(start, out, crcs)
            except StoreError:
                # Nothing tells that a remote shard was replaced since its index was read.
                if self.location.is_local:
                    raise
                self._read(start, out, crcs)
        return out

    def _read(self, start: int, out: npt.NDArray[Any], crcs: npt.NDArray[np.uint32] | None) -> None:
        n_rows, stop = len(out), start + len(out)
        rows = out.reshape(n_rows, -1).view(np.uint8)
        most = most_stored(self.chunk_rows * rows.shape[1])
        files: dict[int, ChunkFile] = {}
        reads: list[list[_Chunk]] = []
        for number in range(start // self.chunk_rows, (stop - 1) // self.chunk_rows + 1):
            in_file, position = divmod(number, self.file_rows // self.chunk_rows)
            if in_file not in files:
                files[in_file] = self._open(in_file)
            file = files[in_file]
            first = number * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            place = file.places[position]
            if place is None:
                raise StoreError(
                    expected("Chunk", f"{position} of {file.path}", "the data of a finished run",
                             "nothing there", NEXT_STEP)
                )  # fmt: skip
            wanted = None if crcs is None else _wanted(crcs, number, file)
            chunk = _Chunk(
                file, place[0], place[1], low - first, rows[low - start : high - start], wanted
            )
            if chunk.size > most:
                raise _damaged(chunk, f"a chunk of at most {most} bytes", chunk.size)
            if reads and _continues(reads[-1], chunk):
                reads[-1].append(chunk)
            else:
                reads.append([chunk])
        for_each(self._read_adjacent, reads, threaded=out.nbytes >= _THREADED_BYTES)

    def _open(self, number: int) -> ChunkFile:
        key = self.file_key(number)
        try:
            if self.is_sharded:
                return open_shard(self.location, key, self.file_rows // self.chunk_rows)
            return open_file(self.location, key)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(
                expected(
                    "File",
                    f"{self.location}/{key}",
                    "the data of a finished run",
                    "nothing there",
                    NEXT_STEP,
                )
            ) from error

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
                try:
                    decompress(stored[:-CRC_BYTES], place)
                except ValueError as error:
                    wanted = f"a zstd frame of {len(place)} bytes"
                    raise _damaged(chunk, wanted, error) from error
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


class _Chunk(NamedTuple):
    """Where one chunk lies in its file, and which of its rows are wanted."""

    file: ChunkFile
    offset: int
    size: int
    """bytes, checksum included"""
    skip: int
    """rows of the chunk before the wanted ones"""
    rows: Bytes
    """where the wanted rows go [n_rows, bytes of a row]"""
    wanted: int | None
    """crc32c that the chunk must have; None if that is not known"""


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


def _wanted(crcs: npt.NDArray[np.uint32], number: int, file: ChunkFile) -> int:
    if number >= len(crcs):
        raise StoreError(
            expected("Chunk", f"{number} of {file.path}", "one of a finished run",
                     "none that was finished when the store was opened", "Open the store again.")
        )  # fmt: skip
    return int(crcs[number])


def _check(chunk: _Chunk, data: Bytes, stored: Bytes) -> None:
    found = crc(data)
    if found != stored.tobytes():
        raise _damaged(chunk, "a chunk that matches its checksum", "another checksum")
    if chunk.wanted is not None and int.from_bytes(found, "little") != chunk.wanted:
        raise _damaged(chunk, "the chunk that its run's record names", "another one, intact")


def _damaged(chunk: _Chunk, wanted: str, got: object) -> StoreError:
    forget(chunk.file)
    where = f"{chunk.file.path} at byte {chunk.offset}"
    return StoreError(expected("Chunk", where, wanted, got, NEXT_STEP))
