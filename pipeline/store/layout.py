"""Which arrays are read directly: those that are laid out as fmritok lays them out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmritok.pipeline.errors import StoreError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.shards import DirectArray

__all__ = ["open_direct", "parse_direct"]

_TYPES = {"int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"}


def parse_direct(location: Location, key: str, metadata: Mapping[str, Any]) -> DirectArray:
    """Describe an array for direct reading.

    Parameters
    ----------
    location : Location
    key : str
        Path of the array within the store.
    metadata : mapping
        Its ``zarr.json``.

    Raises
    ------
    StoreError
        If it is not laid out as fmritok lays out its arrays.
    """
    if sys.byteorder != "little":
        raise StoreError(
            expected("Machine", "that reads a store", "little-endian numbers", "big-endian ones",
                     "Read the store with zarr-python.")
        )  # fmt: skip
    try:
        direct = _described(location, key, metadata)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        direct = None
    if direct is None:
        raise StoreError(
            expected("Array", f"{location}/{key}", "chunks along its first axis, with checksums",
                     "another layout",
                     "Do not rewrite arrays of a store: tokenize again, or restore a copy.")
        )  # fmt: skip
    return direct


def open_direct(location: Location, key: str) -> DirectArray:
    """Describe an array for direct reading from the metadata that lie in the store."""
    return parse_direct(location, key, json.loads(location.read(f"{key}/zarr.json")))


def _described(location: Location, key: str, metadata: Mapping[str, Any]) -> DirectArray | None:
    shape = tuple(metadata["shape"])
    grid = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    chunk, codecs = grid, metadata["codecs"]
    is_sharded = codecs[0]["name"] == "sharding_indexed"
    fits = [
        metadata["zarr_format"] == 3,
        metadata["data_type"] in _TYPES,
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
        chunk, codecs = tuple(inner["chunk_shape"]), inner["codecs"]
    fits += [
        grid[1:] == chunk[1:] == shape[1:],
        grid[0] % chunk[0] == 0,
        _names(codecs) in (["bytes", "crc32c"], ["bytes", "zstd", "crc32c"]),
    ]
    if not all(fits):
        return None
    return DirectArray(
        location=location,
        key=key,
        shape=shape,
        dtype=np.dtype(metadata["data_type"]),
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
