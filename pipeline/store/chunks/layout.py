"""Layout of arrays in their files. Other layouts than fmritok's, and absurd sizes, are refused."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.chunks.codec import MOST_CHUNK_BYTES
from fmritok.pipeline.store.chunks.shards import DirectArray
from fmritok.pipeline.store.documents.checks import parse_json
from fmritok.pipeline.store.location import Location

__all__ = ["ArrayLayout", "open_direct", "parse_direct", "parse_layout"]

_NUMBERS = {
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64",
}  # fmt: skip
#: Largest value in a shape. Larger ones are forged.
_MOST_ROWS = 2**48
#: Largest number of chunks per shard.
_MOST_CHUNKS = 2**20
#: Codecs of a chunk besides zstd: serialization and checksum.
_OF_NUMBERS, _OF_TEXT = "bytes", "vlen-utf8"


@dataclass(frozen=True)
class ArrayLayout:
    """Layout of an array in its files, parsed from its metadata.

    Attributes
    ----------
    shape : tuple of int
    dtype : np.dtype
        ``object`` for text.
    chunk_rows, file_rows : int
        Rows per chunk and per file.
    is_sharded, is_compressed : bool
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    file_rows: int
    is_sharded: bool
    is_compressed: bool

    @property
    def row_bytes(self) -> int:
        """Size of a row of numbers, bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def parse_layout(metadata: Any) -> ArrayLayout:
    """Parse the layout of an array from its metadata.

    Parameters
    ----------
    metadata : dict
        ``zarr.json`` of the array. Untrusted.

    Raises
    ------
    ValueError
        If the layout is not fmritok's, or a size is absurd.
    """
    try:
        found = _described(metadata)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError("other metadata than those of an array") from error
    if found is None:
        raise ValueError("another layout")
    return found


def parse_direct(location: Location, key: str, metadata: Any) -> DirectArray:
    """Prepare direct reading of an array of numbers.

    Parameters
    ----------
    location : Location
    key : str
        Path of the array in the store.
    metadata : dict
        ``zarr.json`` of the array.

    Raises
    ------
    StoreError
        If the layout is not fmritok's.
    """
    if sys.byteorder != "little":
        raise StoreError(
            expected("Machine", "that reads a store", "little-endian numbers", "big-endian ones",
                     "Read the store with zarr-python.")
        )  # fmt: skip
    try:
        layout = parse_layout(metadata)
        if layout.dtype.kind not in "iuf":
            raise ValueError(f"values of type {layout.dtype}")
    except ValueError as error:
        raise StoreError(
            expected("Array", f"{location}/{key}", "chunks along its first axis, with checksums",
                     error, "Do not rewrite arrays of a store: tokenize again, or restore a copy.")
        ) from error  # fmt: skip
    return DirectArray(location, key, **vars(layout))


def open_direct(location: Location, key: str) -> DirectArray:
    """Prepare direct reading of an array from its metadata in the store."""
    try:
        metadata = parse_json(location.read(f"{key}/zarr.json"))
    except ValueError:
        metadata = None
    return parse_direct(location, key, metadata)


def _described(metadata: Any) -> ArrayLayout | None:
    shape = _lengths(metadata["shape"], least=0)
    grid = _lengths(metadata["chunk_grid"]["configuration"]["chunk_shape"], least=1)
    chunk, codecs = grid, metadata["codecs"]
    is_sharded = codecs[0]["name"] == "sharding_indexed"
    kind = metadata["data_type"]
    is_text = kind == "string"
    fits = [
        metadata["zarr_format"] == 3,
        metadata["node_type"] == "array",
        is_text or kind == "bool" or kind in _NUMBERS,
        metadata["chunk_grid"]["name"] == "regular",
        metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}},
        not metadata.get("storage_transformers"),
    ]
    if is_sharded:
        inner = codecs[0]["configuration"]
        fits += [
            len(codecs) == 1,
            inner.get("index_location", "end") == "end",
            _names(inner["index_codecs"]) == ["bytes", "crc32c"],
        ]
        chunk, codecs = _lengths(inner["chunk_shape"], least=1), inner["codecs"]
    values = _OF_TEXT if is_text else _OF_NUMBERS
    fits += [
        len(shape) > 0,
        grid[1:] == chunk[1:] == tuple(max(1, n) for n in shape[1:]),
        grid[0] % chunk[0] == 0,
        grid[0] // chunk[0] <= _MOST_CHUNKS,
        _names(codecs) in ([values, "crc32c"], [values, "zstd", "crc32c"]),
    ]
    if not all(fits):
        return None
    dtype = np.dtype(object if is_text else kind)
    if math.prod(chunk) * dtype.itemsize > MOST_CHUNK_BYTES:
        raise ValueError(f"chunks of {math.prod(chunk) * dtype.itemsize:,} bytes")
    return ArrayLayout(shape, dtype, chunk[0], grid[0], is_sharded, len(codecs) == 3)


def _lengths(value: Any, least: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8:
        raise TypeError("no shape")
    if not all(type(n) is int and least <= n <= _MOST_ROWS for n in value):
        raise ValueError(f"a shape of {value}")
    return tuple(value)


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    """Return the names of codecs, with another name for big-endian serialization."""
    return [
        c["name"] if c.get("configuration", {}).get("endian") != "big" else "big-endian"
        for c in codecs
    ]
