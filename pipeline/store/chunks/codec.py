"""Encode and decode chunks and shards, in the format of zarr's own codecs.

A chunk is little-endian numbers or a zstd frame of them, followed by its crc32c. A shard is a
sequence of chunks, an index of their offsets and sizes, and the crc32c of the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "ABSENT", "CRC_BYTES", "ENTRY_BYTES", "MOST_CHUNK_BYTES", "Bytes", "Codec", "content_size",
    "crc", "decompress", "encode_shard", "most_stored",
]  # fmt: skip

CRC_BYTES = 4
#: Format of an entry in the index of a shard (offset and size), and its value for absent chunks.
ENTRY_BYTES = 16
ABSENT = 2**64 - 1
#: Largest decompressed chunk, bytes. fmritok writes no larger ones.
MOST_CHUNK_BYTES = 2**29

Codec = Literal["zstd", "none"]
Bytes = npt.NDArray[np.uint8]


def crc(data: Bytes) -> bytes:
    """Return the crc32c of bytes in its stored form."""
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def decompress(frame: Bytes, buffer: Bytes) -> None:
    """Decompress a zstd frame into a buffer.

    Parameters
    ----------
    frame, buffer : np.ndarray of shape (n_bytes,), uint8

    Raises
    ------
    ValueError
        If it is not a zstd frame, or its content has another length than the buffer.
    """
    from numcodecs import zstd

    size = content_size(frame)
    if size != len(buffer):
        raise ValueError(f"a frame of {size} bytes instead of {len(buffer)}")
    try:
        zstd.decompress(frame, buffer)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def encode_shard(
    chunks: Sequence[npt.NDArray[Any]], n_chunks: int | None, *, compress: bool
) -> tuple[bytes, list[int]]:
    """Encode a shard, or a file of a single chunk, in the format of zarr's own codecs.

    Parameters
    ----------
    chunks : sequence of np.ndarray
        Whole chunks, in order. Further chunks of the shard stay absent.
    n_chunks : int, optional
        Capacity of the shard in chunks. None: the file is a single chunk without an index.
    compress : bool
        Whether to compress with zstd, level 1.

    Returns
    -------
    data : bytes
    crcs : list of int
        crc32c of each chunk.
    """
    parts = []
    for chunk in chunks:
        body = _little_endian(chunk)
        parts.append(_compressed(body) if compress else body.tobytes())
    sums = [crc(np.frombuffer(part, np.uint8)) for part in parts]
    stored = [part + found for part, found in zip(parts, sums, strict=True)]
    crcs = [int.from_bytes(found, "little") for found in sums]
    if n_chunks is None:
        return stored[0], crcs
    index = np.full((n_chunks, 2), ABSENT, "<u8")
    sizes = np.array([len(part) for part in stored], np.int64)
    index[: len(stored), 0] = np.cumsum(sizes) - sizes
    index[: len(stored), 1] = sizes
    index_bytes = index.tobytes()
    return b"".join([*stored, index_bytes, crc(np.frombuffer(index_bytes, np.uint8))]), crcs


def most_stored(n_bytes: int) -> int:
    """Return the largest size of a chunk in a file, bytes: zstd's bound plus the checksum."""
    return n_bytes + (n_bytes >> 8) + 64 + CRC_BYTES


def content_size(frame: Bytes) -> int | None:
    """Return the content size in a zstd frame's header (RFC 8878, 3.1.1.1); None if it has none.

    Decompression stops at this size.
    """
    if len(frame) < 6:
        return 0
    flags = int(frame[4])
    width = (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    begin = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]
    if not width:
        return None
    return int.from_bytes(frame[begin : begin + width].tobytes(), "little") + 256 * (width == 2)


def _little_endian(values: npt.NDArray[Any]) -> Bytes:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8)


def _compressed(data: Bytes) -> bytes:
    from numcodecs import zstd

    return bytes(zstd.compress(data, 1))
