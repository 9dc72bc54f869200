"""Order and starts of windows are pure functions of (seed, epoch)."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from fmritok.trainer.errors import TrainingError
from fmritok.trainer.windows import (
    EndlessBatches,
    RunIndex,
    random_windows,
    steps_per_epoch,
    validation_windows,
)


@pytest.fixture
def index(run_table):
    table = run_table([100, 20, 33, 64, 7])
    table["row"] = np.arange(5)
    table["start"] = [0, 128, 160, 224, 288]
    return RunIndex.of(table, sorted(table["run_id"]))


def _same(a, b):
    return all((x == y).all() for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
               if isinstance(x, np.ndarray))  # fmt: skip


def test_an_epoch_is_a_pure_function_of_seed_and_epoch(index):
    options = {"window": 32, "windows_per_run": 50}
    one = random_windows(index, seed=3, epoch=7, **options)
    np.random.seed(0)
    assert _same(one, random_windows(index, seed=3, epoch=7, **options))
    for seed, epoch in [(3, 8), (4, 7), (7, 3)]:
        assert not _same(one, random_windows(index, seed=seed, epoch=epoch, **options))


def test_windows_lie_within_runs_and_reach_every_start(index):
    windows = random_windows(index, window=32, windows_per_run=400, seed=0, epoch=0)
    assert (np.bincount(windows.run) == 400).all()
    assert (windows.n_frames == np.minimum(32, index.n_frames)[windows.run]).all()
    assert (windows.first >= 0).all()
    assert (windows.first + windows.n_frames <= index.n_frames[windows.run]).all()
    starts = [set(windows.first[windows.run == run].tolist()) for run in range(5)]
    assert starts == [set(range(69)), {0}, {0, 1}, set(range(33)), {0}]
    assert len(set(windows.draw.tolist())) == len(windows)


def test_validation_takes_all_whole_windows_and_short_runs_whole(index):
    windows = validation_windows(index, window=32, at_most=99, seed=0)
    taken = [w[0][2:5] for w in windows.batches(1)]
    assert taken == [(0, 0, 32), (0, 32, 32), (0, 64, 32), (1, 0, 20), (2, 0, 32), (3, 0, 32),
                     (3, 32, 32), (4, 0, 7)]  # fmt: skip
    fewer = validation_windows(index, window=32, at_most=4, seed=0)
    assert fewer.run.tolist() == [0, 0, 3, 4]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_going_on_from_any_point_gives_the_same_batches(index, batch_size):
    options = {"window": 32, "windows_per_run": 3, "batch_size": batch_size, "seed": 5}
    batches = list(islice(EndlessBatches(index, **options), 40))
    assert [len(b) for b in batches[: steps_per_epoch(5, windows_per_run=3, batch_size=batch_size)]]
    for stop in range(0, 30, 3):
        last = batches[stop][-1]
        rest = EndlessBatches(index, epoch=last.epoch, seen=last.sample + 1, **options)
        assert list(islice(rest, 10)) == batches[stop + 1 : stop + 11]


def test_an_epoch_has_as_many_steps_as_said_and_every_window_once(index):
    batches = EndlessBatches(index, window=32, windows_per_run=3, batch_size=4, seed=5)
    epoch = list(islice(batches, steps_per_epoch(5, windows_per_run=3, batch_size=4)))
    requests = [request for batch in epoch for request in batch]
    assert [r.sample for r in requests] == list(range(15))
    assert {r.epoch for r in requests} == {0}
    assert sorted(r.run for r in requests) == sorted(list(range(5)) * 3)


def test_runs_that_cannot_be_trained_on_are_named(run_table):
    table = run_table([9, 9])
    table["row"], table["start"] = [0, 1], [0, 32]
    with pytest.raises(TrainingError, match=r"Run nobody: expected a finished run"):
        RunIndex.of(table, ["nobody"])
    for tr in (np.nan, 0.0):
        table["tr"] = [0.72, tr]
        with pytest.raises(TrainingError, match=r"TR of run demo_101_run1: expected seconds"):
            RunIndex.of(table, table["run_id"].tolist())
