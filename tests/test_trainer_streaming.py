"""Loaders hand out what is stored, in the sampler's order, with any number of workers."""

from __future__ import annotations

import pickle
from itertools import islice

import numpy as np
import pytest
import torch

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.streaming import Meter, WindowDataset, collate, window_loader
from fmritok.trainer.windows import EndlessBatches, Request, RunIndex


@pytest.fixture
def opened(make_store):
    """Open a small store with one run that is shorter than a window."""
    location, written = make_store([70, 5, 40], n_tokens=3, dim=4)
    group = TokenStore(location.url).group()
    return group, RunIndex.of(group.runs, sorted(group.runs["run_id"])), written


def _batches(index, **position):
    return EndlessBatches(index, window=16, windows_per_run=3, batch_size=4, seed=1, **position)


def _equal(a, b):
    return all(
        torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(a, b, strict=True)
    )


def test_batches_hold_stored_integers_moments_and_seconds(opened):
    group, index, written = opened
    for batch in islice(window_loader(group, index, _batches(index), workers=0), 5):
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


def test_a_batch_without_short_runs_has_no_padding_mask(opened):
    group, index, _ = opened
    dataset = WindowDataset(group, index)
    full, short = Request(0, 0, 0, 3, 16, 1), Request(0, 1, 1, 0, 5, 2)
    assert collate([dataset[full], dataset[full]]).valid is None
    assert collate([dataset[full], dataset[short]]).valid is not None
    assert collate([dataset[short]]).tokens.shape == (1, 5, 3, 4)


def test_workers_read_the_same_batches_and_resume_anywhere(opened):
    """The parent has the store open already: workers must open it anew and never hang."""
    group, index, _ = opened
    group.read(0, 1)
    expected = list(islice(window_loader(group, index, _batches(index), workers=0), 12))
    for workers, stop in ((2, 0), (2, 5)):
        position = {} if not stop else {"epoch": expected[stop - 1].epoch,
                                        "seen": expected[stop - 1].seen}  # fmt: skip
        loader = window_loader(group, index, _batches(index, **position), workers=workers)
        got = list(islice(loader, 12 - stop))
        assert all(_equal(a, b) for a, b in zip(got, expected[stop:], strict=True))


def test_a_dataset_is_pickled_without_what_it_opened(opened):
    group, index, _ = opened
    dataset = WindowDataset(group, index)
    request = Request(0, 0, 2, 3, 16, 1)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(dataset))[request].tokens, dataset[request].tokens
    )


def test_a_store_in_memory_cannot_be_read_by_workers(make_store):
    location, _ = make_store([20], url="memory://trainer.zarr")
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    with pytest.raises(ConfigError, match=r"--workers: expected 0, because memory://"):
        window_loader(group, index, _batches(index), workers=1)
    assert next(iter(window_loader(group, index, _batches(index), workers=0))).n_frames > 0


def test_the_meter_tells_waiting_from_working(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 10.0, 11.0, 14.0])  # before, after next; finish
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(["a", "b"])
    assert meter.next() == "a"
    assert meter.finish(100) == (10.0, 0.9)
    assert meter.next() == "b"
    assert meter.finish(100) == (25.0, 0.25)
    assert meter.overall == (25.0, 0.25)  # the first step started the workers
