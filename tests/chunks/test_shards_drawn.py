"""Rows read straight from shards are what zarr-python reads, whatever the layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from this_thread import zarr_in_this_thread
from zarr.codecs import Crc32cCodec, ZstdCodec

from fmritok.errors import StoreError
from fmritok.pipeline.store.chunks.layout import open_direct
from fmritok.pipeline.store.location import Location

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

TYPES = ("int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
#: Every run draws the same examples: a suite that passed passes again.
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


class Layout(NamedTuple):
    """How an array is stored."""

    rows: int
    row: tuple[int, ...]
    chunk: int
    chunks_a_shard: int  # 0: no shards
    dtype: str
    is_compressed: bool
    seed: int


layouts = st.builds(
    Layout,
    rows=st.integers(1, 40),
    row=st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
    chunk=st.integers(1, 9),
    chunks_a_shard=st.integers(0, 4),
    dtype=st.sampled_from(TYPES),
    is_compressed=st.booleans(),
    seed=st.integers(0, 3),
)


def write(folder: Path, layout: Layout) -> np.ndarray:
    """Write an array of random values, all of them, and return them."""
    shutil.rmtree(folder, ignore_errors=True)
    shape = (layout.rows, *layout.row)
    values = np.random.default_rng(layout.seed).integers(-99, 99, shape).astype(layout.dtype)
    chunk = (layout.chunk, *layout.row)
    shard = (layout.chunk * layout.chunks_a_shard, *layout.row) if layout.chunks_a_shard else None
    compressors: list[Any] = [ZstdCodec(level=1)] if layout.is_compressed else []
    array = zarr.create_array(
        folder / "x", shape=shape, chunks=chunk, shards=shard, dtype=layout.dtype, fill_value=0,
        compressors=[*compressors, Crc32cCodec()], config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = values
    return values


@pytest.fixture(scope="module", autouse=True)
def _here():
    with zarr_in_this_thread():
        yield


@SETTINGS
@given(data=st.data(), layout=layouts)
def test_direct_reads_equal_zarr(data, layout, fast_folder):
    values = write(fast_folder, layout)
    direct = open_direct(Location(fast_folder), "x")
    assert direct is not None
    plain = zarr.open_array(fast_folder / "x", mode="r")
    assert (direct.shape, direct.dtype) == (plain.shape, plain.dtype)
    start = data.draw(st.integers(0, layout.rows), "start")
    length = data.draw(st.integers(0, layout.rows - start), "length")
    found = direct.read(start, length)
    assert found.dtype == plain.dtype
    np.testing.assert_array_equal(found, plain[start : start + length])
    np.testing.assert_array_equal(found, values[start : start + length])
    given_place = np.full_like(found, 7)
    assert direct.read(start, length, given_place) is given_place
    np.testing.assert_array_equal(given_place, found)


@SETTINGS
@given(data=st.data(), layout=layouts)
def test_a_flipped_bit_is_an_error_or_lies_elsewhere(data, layout, fast_folder):
    """Rows that are read are right; if they cannot be, that is an error."""
    values = write(fast_folder, layout)
    files = sorted(p for p in (fast_folder / "x" / "c").rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files), "file")
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1), "bit")
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    direct = open_direct(Location(fast_folder), "x")
    assert direct is not None
    errors = 0
    for start in range(layout.rows):
        try:
            np.testing.assert_array_equal(direct.read(start, 1), values[start : start + 1])
        except StoreError:
            errors += 1
    n_chunks = -(-layout.rows // layout.chunk)
    has_unused = layout.chunks_a_shard and n_chunks % layout.chunks_a_shard
    assert errors or has_unused  # a chunk that no row lies in may hold the bit


@SETTINGS
@given(layout=layouts, beyond=st.integers(1, 5))
def test_rows_that_are_not_there_are_refused(layout, beyond, fast_folder):
    write(fast_folder, layout)
    direct = open_direct(Location(fast_folder), "x")
    assert direct is not None
    for start, length in ((layout.rows, beyond), (-beyond, beyond), (0, layout.rows + beyond)):
        with pytest.raises(IndexError):
            direct.read(start, length)
