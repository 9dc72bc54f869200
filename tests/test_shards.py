"""Direct reads give what zarr-python gives, bit for bit, and refuse damaged bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from fmritok.pipeline.errors import StoreError
from fmritok.pipeline.store import shard_files, shards
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.shards import open_direct

FRAMES = 3 * 64 + 24  # the last shard is not full, and neither is its last chunk of 16


@pytest.fixture
def make_array(tmp_path, rng):
    """Write one array with holes in it, and open it both ways."""

    def make(dtype="int8", *, zstd=True, sharded=True, holes=True, **options):
        layout = {
            "chunks": (16, 3, 5),
            "shards": (64, 3, 5) if sharded else None,
            "compressors": [*([ZstdCodec(level=1)] if zstd else []), Crc32cCodec()],
            "fill_value": 0,
        }
        array = zarr.create_array(
            str(tmp_path / "store" / "tokens"),
            shape=(FRAMES, 3, 5),
            dtype=dtype,
            overwrite=True,
            **(layout | options),
        )
        array[:] = rng.integers(-99, 99, array.shape).astype(dtype)
        if holes:
            array[16:32] = 0  # zarr does not write chunks of the fill value
            array[64:128] = 0
        return array, open_direct(Location(tmp_path / "store"), "tokens")

    return make


def _shard(array, number=0):
    return Path(array.store.root, "c", str(number), "0", "0")


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_any_rows_equal_those_of_zarr_python(make_array, rng, dtype, zstd, sharded):
    array, direct = make_array(dtype, zstd=zstd, sharded=sharded)
    assert direct is not None
    assert not _shard(array, 1 if sharded else 4).exists()  # a hole that is a whole file
    whole = array[:]
    reads = [(0, FRAMES), (0, 0), (FRAMES, 0), (15, 1), (15, 2), (63, 2), (60, 70), (208, 8)]
    reads += [(a, int(rng.integers(0, FRAMES - a))) for a in rng.integers(0, FRAMES, 60).tolist()]
    for start, n_rows in reads:
        out = np.full((n_rows, 3, 5), 77, dtype)
        for got in (direct.read(start, n_rows), direct.read(start, n_rows, out)):
            assert got.dtype == whole.dtype
            assert got.tobytes() == whole[start : start + n_rows].tobytes()
        np.testing.assert_array_equal(direct.read(start, n_rows), array[start : start + n_rows])


@pytest.mark.parametrize("zstd", [True, False])
def test_large_reads_on_several_threads_are_equal_and_take_many_chunks_at_once(
    make_array, monkeypatch, zstd
):
    array, direct = make_array("float16", zstd=zstd)
    whole, calls, preadv = array[:], [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a) or preadv(*a))
    direct.read(0, FRAMES)
    assert len(calls) == 3 * 2  # of each file, the index and all chunks together
    monkeypatch.setattr(shards, "_THREADED_BYTES", 0)
    monkeypatch.setattr(shards, "_READ_BYTES", 200)
    monkeypatch.setattr(shard_files, "_IOV_MAX", 1)
    for threads in (1, 3):
        monkeypatch.setattr(shard_files, "_threads", threads)
        np.testing.assert_array_equal(direct.read(3, FRAMES - 5), whole[3:-2])


def test_rows_and_buffers_that_do_not_fit_are_refused(make_array):
    _, direct = make_array()
    for start, n_rows in [(-1, 2), (FRAMES - 1, 2)]:
        with pytest.raises(IndexError, match="rows"):
            direct.read(start, n_rows)
    for out in (np.empty((2, 3, 5), np.float16), np.empty((2, 3, 4), np.int8),
                np.empty((2, 5, 3), np.int8).swapaxes(1, 2)):  # fmt: skip
        with pytest.raises(ValueError, match="out must hold"):
            direct.read(0, 2, out)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": [GzipCodec()]},
        {"compressors": [ZstdCodec()]},  # no checksum
        {"chunks": (16, 3, 1), "shards": (64, 3, 5)},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"fill_value": float("nan"), "dtype": "float32", "holes": False},
        {"serializer": BytesCodec(endian="big"), "dtype": "float16"},
        {
            "shards": None,
            "chunks": (64, 3, 5),
            "compressors": None,
            "serializer": ShardingCodec(
                chunk_shape=(16, 3, 5), codecs=[BytesCodec(), Crc32cCodec()], index_location="start"
            ),
        },
    ],
    ids=["gzip", "no-checksum", "split-features", "keys", "nan", "big-endian", "index-first"],
)
def test_other_layouts_are_left_to_zarr_python(make_array, options):
    array, direct = make_array(**options)
    assert direct is None
    assert array[:].any()


def test_remote_stores_and_broken_metadata_are_left_to_zarr_python(make_array, tmp_path):
    assert open_direct(Location("memory://x.zarr"), "tokens") is None
    assert open_direct(Location(tmp_path), "nothing") is None
    array, _ = make_array()
    Path(array.store.root, "zarr.json").write_text("{")
    assert open_direct(Location(tmp_path / "store"), "tokens") is None


@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_every_flipped_byte_is_an_error_that_names_the_file(make_array, zstd, sharded):
    array, direct = make_array(zstd=zstd, sharded=sharded, holes=False)
    file = _shard(array)
    good = file.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        file.write_bytes(bad)
        with pytest.raises(StoreError, match=str(file)):
            direct.read(0, 64 if sharded else 16)
    file.write_bytes(good)
    direct.read(0, 64)


@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_a_file_that_was_cut_off_is_an_error(make_array, zstd, sharded):
    array, direct = make_array(zstd=zstd, sharded=sharded, holes=False)
    file = _shard(array)
    good = file.read_bytes()
    for size in (0, 1, 3, 4, 8, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:size])
        with pytest.raises(StoreError, match=str(file)):
            direct.read(0, 16)


def test_a_file_cut_off_under_an_open_handle_is_an_error(make_array, monkeypatch):
    array, direct = make_array(zstd=False, holes=False)
    direct.read(0, 16)
    monkeypatch.setattr(
        shard_files, "_stamp", lambda _: 0
    )  # as a network file system's cache would
    shard_files._process()._shards.clear()
    direct.read(0, 16)
    os.truncate(_shard(array), 100)
    with pytest.raises(StoreError, match="its end at"):
        direct.read(48, 16)


@pytest.mark.parametrize("said", [100, 10**6])
def test_a_frame_of_another_length_is_an_error_even_with_its_checksum(make_array, said):
    from numcodecs import zstd

    array, direct = make_array(sharded=False, holes=False)
    frame = np.frombuffer(zstd.compress(np.ones(said, np.int8), 1), np.uint8)
    _shard(array).write_bytes(frame.tobytes() + shard_files.crc(frame))
    with pytest.raises(StoreError, match="frame of 240 bytes, got"):
        direct.read(0, 16)


@pytest.mark.parametrize("said", [0, 1, 255, 256, 65791, 65792, 10**6])
def test_the_length_that_a_frame_says_is_read_rightly(said):
    from numcodecs import zstd

    frame = np.frombuffer(zstd.compress(np.ones(said, np.int8), 1), np.uint8)
    assert shards._content_size(frame) == said


def test_a_replaced_shard_is_read_anew_and_open_files_are_bounded(make_array, monkeypatch):
    monkeypatch.setattr(shard_files, "_OPEN_FILES", 2)
    array, direct = make_array(holes=False)
    shard_files._process()._shards.clear()
    before = len(os.listdir("/proc/self/fd"))
    for start in (0, 64, 128, 192, 0, 130):
        np.testing.assert_array_equal(direct.read(start, 8), array[start : start + 8])
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    array[0:64] = 5
    np.testing.assert_array_equal(direct.read(0, 64), 5)


def test_threads_read_at_once_while_handles_come_and_go(make_array, monkeypatch):
    monkeypatch.setattr(shard_files, "_OPEN_FILES", 1)
    monkeypatch.setattr(shards, "_THREADED_BYTES", 0)
    array, direct = make_array(holes=False)
    whole, wrong = array[:], []

    def read(seed):
        for start in np.random.default_rng(seed).integers(0, FRAMES - 80, 60).tolist():
            try:
                if not np.array_equal(direct.read(start, 80), whole[start : start + 80]):
                    wrong.append(start)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_a_process_that_is_reading_reads_too(make_array, monkeypatch, method):
    """The parent's pool, its open files and even its held lock must not matter to the child."""
    monkeypatch.setattr(shards, "_THREADED_BYTES", 0)
    monkeypatch.setattr(shard_files, "_threads", 2)
    _, direct = make_array()
    expected = direct.read(0, FRAMES)
    with shard_files._process()._lock:
        children = multiprocessing.get_context(method).Pool(1)
    with children:
        got = children.apply_async(direct.read, (0, FRAMES)).get(timeout=60)
        np.testing.assert_array_equal(got, expected)


def test_a_group_reads_directly_and_falls_back(make_store, monkeypatch):
    location, _ = make_store([70, 5], n_tokens=3, dim=4)
    group = TokenStore(location.url).group()
    start = int(group.runs["start"][1])
    array = group._group()["tokens"]
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda *_: pytest.fail("zarr-python was used"))
    direct, moments = group.read(0, 70), group.moments(1)
    monkeypatch.undo()
    np.testing.assert_array_equal(direct, array[:70])
    np.testing.assert_array_equal(moments.scale, group._group()["scale"][1])
    assert group.read(start, 5, out := np.empty((5, 3, 4), np.int8)) is out
    np.testing.assert_array_equal(out, array[start : start + 5])
    # Beyond the length it knows (the store may have grown), zarr-python looks again.
    assert len(group.read(array.shape[0] - 2, 5)) == 2

    metadata = json.loads(location.read("vae/tokens/zarr.json"))
    metadata["codecs"][0]["configuration"]["index_location"] = "start"
    location.write("vae/tokens/zarr.json", json.dumps(metadata).encode())
    other = TokenStore(location.url).group()
    with pytest.raises(Exception, match="(?i)checksum"):
        other.read(0, 70)


def test_a_remote_group_is_read_with_zarr_python(make_store):
    location, _ = make_store([40], url="memory://shards.zarr", n_tokens=3, dim=4)
    group = TokenStore(location.url).group()
    out = np.empty((40, 3, 4), np.int8)
    np.testing.assert_array_equal(group.read(0, 40, out), group.read(0, 40))
    assert out.any()


def test_a_pickled_group_leaves_its_tables_behind_and_reads_them_when_asked(make_store):
    location, _ = make_store([8] * 40, n_tokens=1, dim=2)
    group = TokenStore(location.url).group()
    group.read(0, 8)
    data = pickle.dumps(group)
    assert b"run_id" not in data
    assert len(data) < 3000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.read(0, 8), group.read(0, 8))
    assert again.runs.equals(group.runs)
