"""Loaders hand out what is stored, in the sampler's order, with any number of workers."""

from __future__ import annotations

import gc
import pickle
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from streams import random_batches
from torch.utils.data import DataLoader

from fmritok.errors import ProvenanceMismatchError, StoreError
from fmritok.pipeline.store.chunks import shard_files
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.data.drawing import all_windows, random_windows
from fmritok.trainer.data.loader import _as_it_is
from fmritok.trainer.data.mixing import MixedGroup, mixed_windows
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import Request, RunIndex, WindowBatches
from fmritok.trainer.data.workers import prepare_worker
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.parallel.distributed import Ranks, ShareOfBatches


@pytest.fixture
def opened(make_store):
    """Open a small store with one run that is shorter than a window."""
    location, written = make_store([70, 5, 40], n_tokens=3, dim=4)
    group = TokenStore(location.url).group()
    return group, RunIndex.of(group.runs, sorted(group.runs["run_id"])), written


def _batches(index, **position):
    return random_batches(index, window=16, windows_per_run=3, batch_size=4, seed=1, **position)


def _equal(a, b):
    return all(
        torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(a, b, strict=True)
    )


def _check_stored(group, index, batch, requests):
    """Compare a batch with the frames and statistics of the store, one window at a time."""
    for i, request in enumerate(requests):
        start, n = int(index.start[request.run]) + request.first, request.n_frames
        np.testing.assert_array_equal(batch.tokens[i, :n], group.read(start, n))
        assert not batch.tokens[i, n:].any()
        statistics = group.statistics(int(index.row[request.run]))
        for name in ("mean", "std", "scale"):
            np.testing.assert_array_equal(getattr(batch, name)[i], getattr(statistics, name))
    assert batch.draws.tolist() == [request.draw for request in requests]


def test_batches_hold_stored_integers_statistics_and_seconds(opened):
    group, index, written = opened
    for batch in islice(WindowReader(group, index).loader(_batches(index), workers=0), 5):
        assert batch.tokens.dtype == torch.int8
        restored = batch.mean[:, None] + batch.scale[:, None] * batch.tokens
        for i, run in enumerate(batch.runs.tolist()):
            n = 5 if index.n_frames[run] == 5 else 16
            valid = torch.ones(16, dtype=torch.bool) if batch.valid is None else batch.valid[i]
            assert valid.tolist() == [True] * n + [False] * (batch.tokens.shape[1] - n)
            x = torch.from_numpy(written[str(index.run_id[run])])
            windows = x.unfold(0, n, 1).movedim(-1, 1)
            assert (windows - restored[i, :n]).abs().flatten(1).amax(1).min() < 0.004
            assert (batch.tokens[i, n:] == 0).all()
        times = torch.arange(batch.tokens.shape[1]) * 0.72
        torch.testing.assert_close(batch.times, times.expand(len(batch.times), -1))


def test_workers_read_the_same_batches_and_resume_anywhere(opened):
    """The parent has the store open already: workers must open it anew and never hang."""
    group, index, _ = opened
    group.read(0, 1)
    expected = list(islice(WindowReader(group, index).loader(_batches(index), workers=0), 12))
    for workers, stop in ((2, 0), (2, 5)):
        position = {} if not stop else {"epoch": expected[stop - 1].epoch,
                                        "seen": expected[stop - 1].seen}  # fmt: skip
        loader = WindowReader(group, index).loader(_batches(index, **position), workers=workers)
        got = list(islice(loader, 12 - stop))
        assert all(_equal(a, b) for a, b in zip(got, expected[stop:], strict=True))


def test_a_dataset_is_pickled_without_what_it_opened(opened):
    group, index, _ = opened
    reader = WindowReader(group, index)
    request = Request(0, 0, 2, 3, 16, 1)
    again = pickle.loads(pickle.dumps(reader))
    assert _equal(again.__getitems__([request]), reader.__getitems__([request]))


def test_a_store_in_memory_cannot_be_read_by_workers(make_store):
    location, _ = make_store([20], url="memory://trainer.zarr")
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    with pytest.raises(ConfigError, match=r"--loader-workers: expected 0, because memory://"):
        WindowReader(group, index).loader(_batches(index), workers=1)
    assert next(iter(WindowReader(group, index).loader(_batches(index), workers=0))).n_frames > 0


def test_windows_of_any_length_are_read_to_their_places(opened):
    group, index, _ = opened
    reader = WindowReader(group, index)
    for requests in islice(_batches(index), 10):
        _check_stored(group, index, reader.__getitems__(requests), requests)
    full, short = Request(0, 0, 0, 3, 16, 1), Request(0, 1, 1, 0, 5, 2)
    assert reader.__getitems__([full, full]).valid is None
    assert reader.__getitems__([full, short]).valid.sum(1).tolist() == [16, 5]
    assert reader.__getitems__([short]).tokens.shape == (1, 5, 3, 4)


def test_windows_of_one_read_are_read_once_and_are_the_same(opened, monkeypatch):
    group, index, _ = opened
    reader, reads = WindowReader(group, index), []
    read = TokenGroup.read
    monkeypatch.setattr(TokenGroup, "read", lambda *a: reads.append(a[2]) or read(*a))
    windows = random_windows(index, window=16, windows_per_run=8, windows_per_read=4,
                             read_frames=24, seed=0, epoch=0)  # fmt: skip
    for requests in windows.batches(8):
        reads.clear()
        batch = reader.__getitems__(requests)
        assert len(reads) == 2
        assert max(reads) <= 24
        _check_stored(group, index, batch, requests)


def test_labels_of_events_are_in_the_batch(opened):
    group, index, _ = opened
    windows = replace(all_windows(index, window=5), label=np.arange(14 + 1 + 8) % 3)
    loader = WindowReader(group, index).loader(list(windows.batches(6)), workers=0)
    assert torch.cat([batch.labels for batch in loader]).tolist() == windows.label.tolist()
    assert next(iter(WindowReader(group, index).loader(_batches(index), workers=0))).labels is None


def test_damage_names_the_run_and_the_shard_also_from_a_worker(opened):
    group, index, _ = opened
    run = index.run_id.tolist().index("demo_102_run2")
    shard = Path(group.location.url, "vae/tokens/c", str(index.start[run] // 32), "0", "0")
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    named = rf"run demo_102_run2 in .*: expected readable frames 0:8, got Chunk {shard}"
    requests = [[Request(0, 0, run, 0, 8, 1)]]
    for workers in (0, 1):
        with pytest.raises(StoreError, match=named):
            list(WindowReader(group, index).loader(requests, workers=workers))
    statistics = Path(group.location.url, "vae/std/c", str(index.row[0]), "0", "0")
    statistics.write_bytes(statistics.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"run {index.run_id[0]} .*readable mean, deviation"):
        list(WindowReader(group, index).loader([[Request(0, 0, 0, 0, 8, 1)]], workers=0))


def test_what_a_worker_gets_of_40000_runs_is_small(opened):
    """No tables: numbers, and the ids that errors name."""
    group, index, _ = opened
    n = 40_000
    ids = np.array([f"ukb_{1000000 + i}_2_rfMRI_REST" for i in range(n)])
    columns = {name: np.resize(column, n) for name, column in vars(index).items()}
    big = RunIndex(**{**columns, "run_id": ids})
    group.all_runs = pd.concat([group.all_runs] * (n // 3), ignore_index=True)
    group.runs = group.all_runs
    assert len(pickle.dumps(WindowReader(group, big))) < 150 * n
    assert len(pickle.dumps(group)) < 5000


@pytest.fixture
def two_stores(make_store, tmp_path):
    """Open two stores of other subjects."""
    groups = [
        TokenStore(make_store(lengths, url=tmp_path / f"{seed}.zarr", subjects=subjects,
                              n_tokens=3, dim=4, seed=seed)[0].url).group()
        for seed, lengths, subjects in ((1, [40, 30, 50], ["1", "2", "3"]), (2, [45], ["4"]))
    ]  # fmt: skip
    return groups


def test_a_mix_of_stores_reads_each_run_from_its_own(two_stores):
    mix = MixedGroup(two_stores, weights=[1, 2])
    assert (mix.n_tokens, mix.dim, mix.name) == (3, 4, "vae")
    index = RunIndex.of(mix.runs, mix.runs["run_id"].tolist())
    assert index.store.tolist() == [0, 0, 0, 1]

    def windows_of(epoch):
        return mixed_windows(index, mix.weights, window=16, windows_per_run=3, seed=0, epoch=epoch)

    stream = WindowBatches(windows_of, batch_size=4)
    batches = list(islice(WindowReader(mix, index).loader(stream, workers=1), 6))
    stores = index.store[torch.cat([b.runs for b in batches]).numpy()]
    assert np.bincount(stores).tolist() == [8, 16]
    requests = islice(stream, 6)
    for batch, asked in zip(batches, requests, strict=True):
        for i, request in enumerate(asked):
            group = two_stores[index.store[request.run]]
            start = index.start[request.run] + request.first
            np.testing.assert_array_equal(batch.tokens[i], group.read(int(start), 16))
            statistics = group.statistics(int(index.row[request.run]))
            np.testing.assert_array_equal(batch.scale[i], statistics.scale)


def test_stores_that_do_not_go_together_are_refused(two_stores, make_store, tmp_path):
    one, other = two_stores
    with pytest.raises(ConfigError, match=r"Run demo_1_run0: expected in one of the stores"):
        MixedGroup([one, one])
    for weights in ([1], [1, 0]):
        with pytest.raises(ConfigError, match="Shares of 2 stores"):
            MixedGroup(two_stores, weights)
    location, _ = make_store([20], url=tmp_path / "f.zarr", precision="float16", n_tokens=3, dim=4)
    with pytest.raises(ProvenanceMismatchError, match=r"precision = 'int8' \(as .*got 'float16'"):
        MixedGroup([one, TokenStore(location.url).group()])
    other.contract = {**other.contract, "codec": "none", "shard_frames": 64}  # means the same
    assert "codec" not in MixedGroup(two_stores).contract
    location, _ = make_store([20], url="memory://mix.zarr", subjects=["9"], n_tokens=3, dim=4)
    mix = MixedGroup([one, TokenStore(location.url).group()])
    index = RunIndex.of(mix.runs, mix.runs["run_id"].tolist())
    with pytest.raises(ConfigError, match=r"0, because memory://mix"):
        WindowReader(mix, index).loader([], workers=1)


@pytest.mark.parametrize("size", [1, 3])
def test_ranks_and_their_workers_read_every_sample_once(opened, size):
    group, index, _ = opened
    got = []
    for rank in range(size):
        share = ShareOfBatches(random_batches(index, window=16, windows_per_run=6, batch_size=4,
                                              seed=1), Ranks(rank, size))  # fmt: skip
        loader = WindowReader(group, index).loader(share, workers=2 if size == 1 else 1)
        got += [batch for batch in islice(loader, 5) if batch.seen]
    windows = random_windows(index, window=16, windows_per_run=6, seed=1, epoch=0)
    draws = torch.cat([batch.draws for batch in got]).tolist()
    assert sorted(draws) == sorted(windows.draw.tolist())


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("fork", marks=pytest.mark.slow),
        "forkserver",
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_never_hang_on_a_store_that_is_open_and_being_read(opened, method):
    """The parent reads in a thread all the time, with zarr-python too, while the workers start."""
    group, index, _ = opened
    stop = threading.Event()

    def keep_reading():
        while not stop.is_set():
            group.read(0, 40)
            group.array("coordinates")

    requests = list(islice(_batches(index), 6))
    expected = [WindowReader(group, index).__getitems__(batch) for batch in requests]
    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        loader = DataLoader(
            WindowReader(group, index), batch_sampler=requests, collate_fn=_as_it_is,
            num_workers=2, multiprocessing_context=method, worker_init_fn=prepare_worker,
        )  # fmt: skip
        got = list(loader)
    finally:
        stop.set()
        reader.join()
    assert all(_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_open_files_stay_few(make_store):
    """Memory is measured by `python benchmarks/speed/streaming.py --soak 50000`."""
    location, _ = make_store([64] * 80, n_tokens=2, dim=8)
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batches = random_batches(index, window=32, windows_per_run=2, batch_size=8, seed=0)
    loader = iter(WindowReader(group, index).loader(batches, workers=2))

    def open_files():
        gc.collect()
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(process.num_fds() for process in processes)

    for _ in range(20):
        next(loader)
    before = open_files()
    for _ in range(40):
        next(loader)
    assert open_files() - before < 40
    assert len(shard_files._process()._shards) <= shard_files._OPEN_FILES
