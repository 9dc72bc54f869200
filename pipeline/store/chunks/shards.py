"""Read rows of an array directly from its files, several times faster than zarr-python.

Supports the layout of fmritok only: chunks along the first axis, as little-endian numbers or zstd
frames, each with its crc32c, in separate files or in shards with the index at the end. An absent
chunk, a damaged chunk, and a chunk with another checksum than given by the caller are errors.
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

_READ_BYTES = 2 * 2**20  # adjacent chunks are read together up to about this size, bytes
_THREADED_BYTES = 2**21  # below this size, waking threads takes longer than they save


@dataclass(frozen=True)
class DirectArray:
    """An array that is read directly from its files. Picklable; keeps no file open.

    Attributes
    ----------
    location : Location
    key : str
        Path of the array in the store.
    shape : tuple of int
    dtype : np.dtype
    chunk_rows, file_rows : int
        Rows per chunk and per file.
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
        """Return the key of a file by its number. Its first row is ``number * file_rows``."""
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
            First row and number of rows, within the array.
        out : np.ndarray of shape (n_rows, ...), optional
            Output buffer in C order. Default: a new array.
        crcs : np.ndarray of shape (n_chunks,), uint32, optional
            Expected crc32c of each chunk of the array.

        Returns
        -------
        np.ndarray of shape (n_rows, ...)

        Raises
        ------
        StoreError
            If a chunk is absent, a file is truncated, or a chunk or an index differs from its
            checksum.
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
                # A remote shard may have been replaced after its index was cached.
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
            span = file.spans[position]
            if span is None:
                raise StoreError(
                    expected("Chunk", f"{position} of {file.path}", "the data of a finished run",
                             "nothing there", NEXT_STEP)
                )  # fmt: skip
            wanted = None if crcs is None else _wanted(crcs, number, file)
            chunk = _Chunk(
                file, span[0], span[1], low - first, rows[low - start : high - start], wanted
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
        """Read adjacent chunks of a file, compare their checksums, and copy the wanted rows."""
        row_bytes = chunks[0].rows.shape[1]
        chunk_bytes = self.chunk_rows * row_bytes
        # Whole wanted chunks are read directly into the output.
        buffers = [
            chunk.rows.reshape(-1)
            if len(chunk.rows) == self.chunk_rows
            else np.empty(chunk_bytes, np.uint8)
            for chunk in chunks
        ]
        file, offset = chunks[0].file, chunks[0].offset
        if self.is_compressed:
            data = _scratch(sum(chunk.size for chunk in chunks))
            file.read_into([data], offset)
            for chunk, buffer in zip(chunks, buffers, strict=True):
                stored = data[chunk.offset - offset :][: chunk.size]
                _check(chunk, stored[:-CRC_BYTES], stored[-CRC_BYTES:])
                try:
                    decompress(stored[:-CRC_BYTES], buffer)
                except ValueError as error:
                    wanted = f"a zstd frame of {len(buffer)} bytes"
                    raise _damaged(chunk, wanted, error) from error
        else:
            sums = np.empty((len(chunks), CRC_BYTES), np.uint8)
            for chunk in chunks:
                if chunk.size != chunk_bytes + CRC_BYTES:
                    raise _damaged(chunk, f"a chunk of {chunk_bytes} bytes", chunk.size)
            file.read_into(
                [part for pair in zip(buffers, sums, strict=True) for part in pair], offset
            )
            for chunk, buffer, stored in zip(chunks, buffers, sums, strict=True):
                _check(chunk, buffer, stored)
        for chunk, buffer in zip(chunks, buffers, strict=True):
            if len(chunk.rows) != self.chunk_rows:
                chunk.rows[:] = buffer.reshape(-1, row_bytes)[chunk.skip :][: len(chunk.rows)]


class _Chunk(NamedTuple):
    """One chunk in its file, and its wanted rows."""

    file: ChunkFile
    offset: int
    size: int
    """bytes, checksum included"""
    skip: int
    """rows before the first wanted row"""
    rows: Bytes
    """output buffer of the wanted rows [n_rows, bytes per row]"""
    wanted: int | None
    """expected crc32c of the chunk; None if unknown"""


_local = threading.local()


def _continues(read: list[_Chunk], chunk: _Chunk) -> bool:
    last = read[-1]
    return (
        last.file is chunk.file
        and last.offset + last.size == chunk.offset
        and chunk.offset + chunk.size - read[0].offset <= _READ_BYTES
    )


def _scratch(size: int) -> Bytes:
    """Return the buffer of this thread for compressed bytes. Allocation is slower than reading."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _local.buffer = np.empty(max(size, _READ_BYTES), np.uint8)
    return buffer[:size]


def _wanted(crcs: npt.NDArray[np.uint32], number: int, file: ChunkFile) -> int:
    if number >= len(crcs):
        raise StoreError(
            expected("Chunk", f"{number} of {file.path}", "a chunk of a finished run",
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
