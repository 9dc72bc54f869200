"""Chunks and shards as bytes, as zarr's own codecs lay them out.

A chunk is little-endian numbers or a zstd frame of them, followed by its crc32c. A shard is chunks,
an index of their places, and the crc32c of the index.
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
#: Bytes of a chunk's offset and size in the index of a shard, and what they are if it is absent.
ENTRY_BYTES = 16
ABSENT = 2**64 - 1
#: Bytes of an unpacked chunk; metadata that say more are not fmritok's.
MOST_CHUNK_BYTES = 2**29

Codec = Literal["zstd", "none"]
Bytes = npt.NDArray[np.uint8]


def crc(data: Bytes) -> bytes:
    """Return the crc32c of bytes, as it is stored behind them."""
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def decompress(frame: Bytes, place: Bytes) -> None:
    """Unpack a zstd frame.

    Parameters
    ----------
    frame, place : np.ndarray of shape (n_bytes,), uint8

    Raises
    ------
    ValueError
        If it is no frame, or one of another length.
    """
    from numcodecs import zstd

    size = content_size(frame)
    if size != len(place):
        raise ValueError(f"a frame of {size} bytes instead of {len(place)}")
    try:
        zstd.decompress(frame, place)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def encode_shard(
    chunks: Sequence[npt.NDArray[Any]], n_chunks: int | None, *, compress: bool
) -> tuple[bytes, list[int]]:
    """Return the bytes of a file of chunks, as zarr's own codecs lay them out.

    Parameters
    ----------
    chunks : sequence of np.ndarray
        Whole chunks, in order; those that a shard has room for beyond them stay absent.
    n_chunks : int, optional
        Chunks that the shard has room for. None: the file is one chunk, without an index.
    compress : bool
        zstd, level 1.

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
    places = index.tobytes()
    return b"".join([*stored, places, crc(np.frombuffer(places, np.uint8))]), crcs


def most_stored(n_bytes: int) -> int:
    """Return how many bytes a chunk takes at most in a file: zstd's bound, and the checksum."""
    return n_bytes + (n_bytes >> 8) + 64 + CRC_BYTES


def content_size(frame: Bytes) -> int | None:
    """Return how many bytes a zstd frame says it holds (RFC 8878, 3.1.1.1); None if it does not.

    Unpacking stops there, whatever the frame really holds.
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
