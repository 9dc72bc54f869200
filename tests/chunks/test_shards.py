"""Direct reads give what zarr-python gives, bit for bit, and refuse what is missing or damaged."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from fmritok.errors import StoreError
from fmritok.pipeline.store.chunks import codec, shard_files, shards
from fmritok.pipeline.store.chunks.layout import open_direct
from fmritok.pipeline.store.chunks.shards import DirectArray
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.verify import verify_store
from fmritok.pipeline.store.writer import _write_rows

FRAMES = 3 * 64 + 24  # the last shard is not full, and neither is its last chunk of 16


@pytest.fixture
def make_array(tmp_path, rng):
    """Write one array with zarr-python, and open it both ways."""

    def make(dtype="int8", *, zstd=True, sharded=True, **options):
        layout = {
            "chunks": (16, 3, 5),
            "shards": (64, 3, 5) if sharded else None,
            "compressors": [*([ZstdCodec(level=1)] if zstd else []), Crc32cCodec()],
            "fill_value": 0,
            "config": {"write_empty_chunks": True},
        }
        array = zarr.create_array(
            str(tmp_path / "store" / "tokens"),
            shape=(FRAMES, 3, 5),
            dtype=dtype,
            overwrite=True,
            **(layout | options),
        )
        array[:] = rng.integers(-99, 99, array.shape).astype(dtype)
        array[16:32] = 0
        return array, Location(tmp_path / "store")

    return make


@pytest.fixture
def make_direct(make_array):
    def make(*args, **options):
        array, location = make_array(*args, **options)
        return array, open_direct(location, "tokens")

    return make


def _shard(array, number=0):
    return Path(array.store.root, "c", str(number), "0", "0")


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_any_rows_equal_those_of_zarr_python(make_direct, rng, dtype, zstd, sharded):
    array, direct = make_direct(dtype, zstd=zstd, sharded=sharded)
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
    make_direct, monkeypatch, zstd
):
    array, direct = make_direct("float16", zstd=zstd)
    whole, calls, preadv = array[:], [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a) or preadv(*a))
    direct.read(0, FRAMES)
    assert len(calls) == 4 * 2  # of each file, the index and all chunks together
    monkeypatch.setattr(shards, "_THREADED_BYTES", 0)
    monkeypatch.setattr(shards, "_READ_BYTES", 200)
    monkeypatch.setattr(shard_files, "_IOV_MAX", 1)
    for threads in (1, 3):
        monkeypatch.setattr(shard_files, "_threads", threads)
        np.testing.assert_array_equal(direct.read(3, FRAMES - 5), whole[3:-2])


def test_rows_and_buffers_that_do_not_fit_are_refused(make_direct):
    _, direct = make_direct()
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
    ids=["gzip", "no-checksum", "split-features", "keys", "big-endian", "index-first"],
)
def test_other_layouts_are_refused(make_array, options):
    array, location = make_array(**options)
    with pytest.raises(StoreError, match="expected chunks along its first axis, with checksums"):
        open_direct(location, "tokens")
    assert array[:].any()


@pytest.mark.parametrize("zstd", [True, False])
def test_an_absent_chunk_or_file_is_an_error(make_direct, zstd):
    array, direct = make_direct(zstd=zstd)
    _shard(array, 1).unlink()
    assert (array[64:128] == 0).all()  # what zarr-python makes of it
    with pytest.raises(StoreError, match=r"tokens/c/1/0/0: expected the data of a finished run"):
        direct.read(60, 10)
    array.with_config({"write_empty_chunks": False})[16:32] = 0
    assert (array[16:32] == 0).all()
    with pytest.raises(StoreError, match=r"Chunk 1 of .*tokens/c/0/0/0: expected the data of a"):
        direct.read(15, 2)
    np.testing.assert_array_equal(direct.read(0, 16), array[0:16])


@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_a_chunk_that_is_intact_and_not_the_one_that_was_written_is_an_error(
    make_array, rng, zstd, sharded
):
    array, location = make_array(zstd=zstd, sharded=sharded)
    direct = open_direct(location, "tokens")
    values = rng.integers(-99, 99, (128, 3, 5)).astype("int8")
    crcs = np.array(_write_rows(location, direct, 0, values), np.uint32)
    np.testing.assert_array_equal(direct.read(3, 100, crcs=crcs), values[3:103])
    np.testing.assert_array_equal(array[:128], values)
    first, second = (_shard(array, n) for n in ((0, 1) if sharded else (0, 4)))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    for start in (0, 64):
        with pytest.raises(StoreError, match="expected the chunk that its run's record names"):
            direct.read(start, 8, crcs=crcs)
    first.write_bytes(one)
    array[5, 1, 2] += 1  # zarr-python writes the chunk with a checksum of its own
    with pytest.raises(StoreError, match="expected the chunk that its run's record names"):
        direct.read(0, 8, crcs=crcs)
    with pytest.raises(StoreError, match="none that was finished when the store was opened"):
        direct.read(200, 8, crcs=crcs)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("n_rows", [1, 16, 70, FRAMES])
def test_what_is_written_directly_is_what_zarr_python_reads(
    make_array, rng, dtype, zstd, sharded, n_rows
):
    array, location = make_array(dtype, zstd=zstd, sharded=sharded)
    values = rng.integers(-99, 99, (n_rows, 3, 5)).astype(dtype)
    values[: n_rows // 2] = 0
    direct = open_direct(location, "tokens")
    crcs = _write_rows(location, direct, 0, values)
    assert len(crcs) == -(-n_rows // 16)
    assert array[:n_rows].tobytes() == values.tobytes()
    got = direct.read(0, n_rows, crcs=np.array(crcs, np.uint32))
    assert got.tobytes() == values.tobytes()


@pytest.mark.parametrize("sharded", [True, False])
def test_an_object_store_is_read_by_the_same_code(make_array, rng, sharded):
    array, local = make_array(sharded=sharded)
    remote = Location(f"memory://direct-{sharded}")
    for key in local.find(""):
        remote.write(key, local.read(key))
    direct = open_direct(remote, "tokens")
    assert isinstance(direct, DirectArray)
    whole = array[:]
    for start in rng.integers(0, FRAMES, 20).tolist():
        n_rows = int(rng.integers(0, FRAMES - start))
        np.testing.assert_array_equal(direct.read(start, n_rows), whole[start : start + n_rows])
    remote.remove(direct.file_key(1))
    shard_files._process()._shards.clear()
    with pytest.raises(StoreError, match="expected the data of a finished run, got nothing"):
        direct.read(direct.file_rows, 8)


@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_every_flipped_byte_is_an_error_that_names_the_file(make_direct, zstd, sharded):
    array, direct = make_direct(zstd=zstd, sharded=sharded)
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
def test_a_file_that_was_cut_off_is_an_error(make_direct, zstd, sharded):
    array, direct = make_direct(zstd=zstd, sharded=sharded)
    file = _shard(array)
    good = file.read_bytes()
    for size in (0, 1, 3, 4, 8, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:size])
        with pytest.raises(StoreError, match=str(file)):
            direct.read(0, 16)


def test_a_file_cut_off_under_an_open_handle_is_an_error(make_direct, monkeypatch):
    array, direct = make_direct(zstd=False)
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
def test_a_frame_of_another_length_is_an_error_even_with_its_checksum(make_direct, said):
    from numcodecs import zstd

    array, direct = make_direct(sharded=False)
    frame = np.frombuffer(zstd.compress(np.ones(said, np.int8), 1), np.uint8)
    _shard(array).write_bytes(frame.tobytes() + codec.crc(frame))
    with pytest.raises(StoreError, match="frame of 240 bytes, got a frame of"):
        direct.read(0, 16)


@pytest.mark.parametrize("said", [0, 1, 255, 256, 65791, 65792, 10**6])
def test_the_length_that_a_frame_says_is_read_rightly(said):
    from numcodecs import zstd

    frame = np.frombuffer(zstd.compress(np.ones(said, np.int8), 1), np.uint8)
    assert codec.content_size(frame) == said


def test_a_replaced_shard_is_read_anew_and_open_files_are_bounded(make_direct, monkeypatch):
    monkeypatch.setattr(shard_files, "_OPEN_FILES", 2)
    array, direct = make_direct()
    shard_files._process()._shards.clear()
    before = len(os.listdir("/proc/self/fd"))
    for start in (0, 64, 128, 192, 0, 130):
        np.testing.assert_array_equal(direct.read(start, 8), array[start : start + 8])
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    array[0:64] = 5
    np.testing.assert_array_equal(direct.read(0, 64), 5)


def test_threads_read_at_once_while_handles_come_and_go(make_direct, monkeypatch):
    monkeypatch.setattr(shard_files, "_OPEN_FILES", 1)
    monkeypatch.setattr(shards, "_THREADED_BYTES", 0)
    array, direct = make_direct()
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


@pytest.mark.parametrize(
    "method",
    [
        "fork",
        pytest.param("forkserver", marks=pytest.mark.slow),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_a_child_of_a_process_that_is_reading_reads_too(make_direct, monkeypatch, method):
    """The parent's pool, its open files and even its held lock must not matter to the child."""
    monkeypatch.setattr(shards, "_THREADED_BYTES", 0)
    monkeypatch.setattr(shard_files, "_threads", 2)
    _, direct = make_direct()
    expected = direct.read(0, FRAMES)
    with shard_files._process()._lock:
        children = multiprocessing.get_context(method).Pool(1)
    with children:
        got = children.apply_async(direct.read, (0, FRAMES)).get()
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("url", [None, "memory://shards.zarr"])
def test_a_group_reads_without_zarr_python_once_it_is_open(make_store, monkeypatch, url):
    location, _ = make_store([70, 5], n_tokens=3, dim=4, url=url)
    group = TokenStore(location.url).group()
    start = int(group.runs["start"][1])
    plain = zarr.open_group(location.url, mode="r")["vae"]
    tokens, scale = plain["tokens"][:], plain["scale"][1]
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda *_: pytest.fail("zarr-python was used"))
    np.testing.assert_array_equal(group.read(0, 70), tokens[:70])
    np.testing.assert_array_equal(group.statistics(1).scale, scale)
    assert group.read(start, 5, out := np.empty((5, 3, 4), np.int8)) is out
    np.testing.assert_array_equal(out, tokens[start : start + 5])


@pytest.mark.parametrize("array", ["tokens", "mean", "std", "scale"])
@pytest.mark.parametrize("url", [None, "memory://swapped.zarr"])
def test_files_of_two_runs_that_were_swapped_are_an_error(make_store, url, array):
    location, _ = make_store([20, 20], url=url)
    group = TokenStore(location.url).group()
    one, other = (group._arrays[array].file_key(number) for number in (0, 1))
    data = location.read(one)
    location.write(one, location.read(other))
    location.write(other, data)
    for run_id in ("demo_100_run0", "demo_101_run1"):
        again = TokenStore(location.url).group()
        row = int(again.run(run_id)["row"])
        with pytest.raises(StoreError, match="expected the chunk that its run's record names"):
            again.array("std", row) if array == "std" else again.values(run_id)
    assert {d.run_id for d in verify_store(location)} == {"demo_100_run0", "demo_101_run1"}


def test_a_pickled_group_leaves_its_tables_behind_and_reads_them_when_asked(make_store):
    location, _ = make_store([8] * 40, n_tokens=1, dim=2)
    group = TokenStore(location.url).group()
    group.read(0, 8)
    data = pickle.dumps(group)
    assert b"run_id" not in data
    assert len(data) < 5000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.read(0, 8), group.read(0, 8))
    assert again.runs.equals(group.runs)


def test_verify_reads_an_index_that_this_process_has_cached_anew(make_store):
    """Nothing tells that an object was replaced since its index was read."""
    location, _ = make_store([20], url="memory://cached.zarr", n_tokens=2, dim=3)
    group = TokenStore(location.url).group()
    group.values("demo_100_run0")
    key = group._arrays["tokens"].file_key(0)
    data = bytearray(location.read(key))
    data[-10] ^= 1
    location.write(key, bytes(data))
    assert [d.run_id for d in verify_store(location)] == ["demo_100_run0"]
