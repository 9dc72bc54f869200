"""Decode small zarr arrays within bounded memory. zarr itself trusts the metadata.

An edited store may claim petabytes, or hold a megabyte that decompresses to gigabytes. Here each
chunk must exist and have the size given by the metadata, and all arrays together must fit the
memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.store.chunks.codec import CRC_BYTES, Bytes, content_size, crc, decompress
from fmritok.pipeline.store.chunks.layout import ArrayLayout, parse_layout
from fmritok.pipeline.store.documents.checks import parse_json
from fmritok.quantities import counted
from fmritok.regular import memory_left

__all__ = ["decode_arrays"]

#: Largest decompressed size of a chunk of 65,536 texts, bytes.
_MOST_TEXT = 2**28
#: Arrays below this size are decoded without a check of the free memory, bytes.
_SMALL_BYTES = 2**26


def decode_arrays(
    files: Mapping[str, bytes],
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Decode the arrays and attributes of a zarr group from its files.

    Parameters
    ----------
    files : dict of str to bytes
        Files by path below the group. Untrusted.

    Returns
    -------
    arrays : dict of str to np.ndarray
        Text has dtype object.
    attributes : dict

    Raises
    ------
    ValueError
        If a file is missing, a file differs from fmritok's format, or the arrays do not fit the
        memory.
    """
    if "zarr.json" not in files:
        raise ValueError("zarr.json is missing")
    group = parse_json(files["zarr.json"])
    if not isinstance(group, dict) or not isinstance(group.get("attributes", {}), dict):
        raise ValueError("zarr.json is not of a group")
    chunks: dict[str, dict[str, bytes]] = {}
    layouts = {}
    for key, data in files.items():
        name, slash, below = key.partition("/")
        if below == "zarr.json":
            layouts[name] = parse_layout(parse_json(data))
        elif slash:
            chunks.setdefault(name, {})[below] = data
    left = max(_SMALL_BYTES, memory_left())
    arrays = {}
    for name in sorted({*layouts, *chunks}):
        try:
            if name not in layouts:
                raise ValueError("zarr.json is missing")
            stored = _in_order(layouts[name], chunks.get(name, {}))
            left -= _unpacked_bytes(layouts[name], stored)
            if left < 0:
                raise ValueError("more values than fit the memory")
            arrays[name] = _decode(layouts[name], stored)
        except ValueError as error:
            raise ValueError(f"array {name}: {error}") from error
    return arrays, dict(group.get("attributes", {}))


def _in_order(layout: ArrayLayout, chunks: Mapping[str, bytes]) -> list[Bytes]:
    """Compare the checksums of an array's chunks, and return the chunks without them."""
    if layout.is_sharded:
        raise ValueError("shards, where small arrays have none")
    number = -(-layout.shape[0] // layout.chunk_rows) if math.prod(layout.shape) else 0
    rest = ["0"] * (len(layout.shape) - 1)
    if len(chunks) != number:
        raise ValueError(f"{counted(len(chunks), 'chunk')} instead of {number}")
    found = []
    for i in range(number):
        key = "/".join(["c", str(i), *rest])
        data = np.frombuffer(chunks.get(key, b""), np.uint8)
        if len(data) < CRC_BYTES or crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:].tobytes():
            raise ValueError(f"chunk {i} is missing or differs from its checksum")
        found.append(data[:-CRC_BYTES])
    return found


def _chunk_bytes(layout: ArrayLayout, stored: Bytes) -> int:
    """Return the decompressed size of a chunk, bytes."""
    if layout.dtype != object:
        return layout.chunk_rows * layout.row_bytes
    size = content_size(stored) if layout.is_compressed else len(stored)
    if size is None or not 4 <= size <= _MOST_TEXT:
        raise ValueError(f"a chunk that unpacks to {size} bytes of text")
    return size


def _unpacked_bytes(layout: ArrayLayout, stored: list[Bytes]) -> int:
    values = sum(_chunk_bytes(layout, chunk) for chunk in stored)
    places = math.prod(layout.shape) if layout.dtype == object else 0
    return values + 64 * places  # a short text as a Python object


def _decode(layout: ArrayLayout, stored: list[Bytes]) -> npt.NDArray[Any]:
    values = np.empty(layout.shape, layout.dtype)
    for i, chunk in enumerate(stored):
        unpacked = np.empty(_chunk_bytes(layout, chunk), np.uint8)
        if layout.is_compressed:
            decompress(chunk, unpacked)
        elif len(chunk) == len(unpacked):
            unpacked = chunk
        else:
            raise ValueError(
                f"chunk {i} has {counted(len(chunk), 'byte')} instead of {len(unpacked)}"
            )
        rows = values[i * layout.chunk_rows : (i + 1) * layout.chunk_rows]
        whole = _texts(unpacked) if layout.dtype == object else _numbers(layout, unpacked)
        if len(whole) != layout.chunk_rows * math.prod(layout.shape[1:]):
            raise ValueError(f"chunk {i} has {counted(len(whole), 'value')}")
        rows[...] = whole.reshape(layout.chunk_rows, *layout.shape[1:])[: len(rows)]
    return values


def _numbers(layout: ArrayLayout, unpacked: Bytes) -> npt.NDArray[Any]:
    if layout.dtype == bool:
        return unpacked != 0
    return unpacked.view(layout.dtype.newbyteorder("<"))


def _texts(unpacked: Bytes) -> npt.NDArray[np.object_]:
    from numcodecs import VLenUTF8

    number = int.from_bytes(unpacked[:4].tobytes(), "little")
    if 4 + 4 * number > len(unpacked):
        raise ValueError(f"{counted(number, 'text')} in {counted(len(unpacked), 'byte')}")
    found: npt.NDArray[np.object_] = VLenUTF8().decode(unpacked)
    return found
