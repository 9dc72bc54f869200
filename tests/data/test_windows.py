"""Order and starts of windows are pure functions of (seed, epoch)."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from streams import random_batches

from fmritok.trainer.data.drawing import all_windows, random_windows, validation_windows
from fmritok.trainer.data.events import event_windows
from fmritok.trainer.data.mixing import mixed_windows
from fmritok.trainer.data.windows import RunIndex, WindowBatches
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.parallel.distributed import Ranks, ShareOfBatches


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


def _starts(windows):
    return list(zip(windows.run.tolist(), windows.first.tolist(), windows.n_frames.tolist(),
                    strict=True))  # fmt: skip


@pytest.mark.parametrize("stride", [1, 5, 32, 50])
def test_all_windows_are_the_whole_ones_at_every_stride(index, stride):
    windows = all_windows(index, window=32, stride=stride)
    expected = []
    for run, n in enumerate(index.n_frames.tolist()):
        starts = [i for i in range(0, n, stride) if i + 32 <= n] or [0]
        expected += [(run, i, min(32, n)) for i in starts]
    assert _starts(windows) == expected


def test_windows_of_one_read_follow_each_other_within_its_frames(index):
    windows = random_windows(index, window=16, windows_per_run=600, windows_per_read=3,
                             read_frames=24, seed=0, epoch=0)  # fmt: skip
    assert (np.bincount(windows.run) == 600).all()
    run, first, length = (x.reshape(-1, 3) for x in (windows.run, windows.first, windows.n_frames))
    assert (run == run[:, :1]).all()
    frames = first.max(1) + length[:, 0] - first.min(1)
    assert (frames <= np.minimum(24, index.n_frames[run[:, 0]])).all()
    starts = set(windows.first[windows.run == 2].tolist())
    assert starts == set(range(33 - 16 + 1))
    assert len(set(windows.draw.tolist())) == len(windows)
    same = random_windows(index, window=16, windows_per_run=6, windows_per_read=3, seed=0, epoch=0)
    assert (same.first.reshape(-1, 3) == same.first[::3, None]).all()
    for options in ({"windows_per_run": 4}, {"windows_per_run": 3, "read_frames": 15}):
        with pytest.raises(ConfigError, match=r"data\.windows_per_run: expected a multiple"):
            random_windows(index, window=16, windows_per_read=3, seed=0, epoch=0, **options)


@pytest.mark.parametrize("options", [
    {"windows_per_read": 1, "read_frames": 64}, {"windows_per_read": 4, "read_frames": 64},
    {"windows_per_read": 4, "read_frames": 20}, {"windows_per_read": 2, "read_frames": 100},
    {"windows_per_read": 2, "read_frames": 500}, {"windows_per_read": 4},
])  # fmt: skip
def test_every_start_is_drawn_as_often_whatever_the_reads(index, options):
    """The ends of a run, too: in a run of 100 frames, 85 windows of 16 frames can be drawn."""
    count, per_read = 40_000, options["windows_per_read"]
    one = index.take(np.array([0]))
    windows = random_windows(one, window=16, windows_per_run=count, seed=0, epoch=0, **options)
    counts = np.bincount(windows.first, minlength=85)
    assert len(counts) == 85
    # Windows of one read depend on one another: at worst there is one of them for each read.
    error = (count / 85 * per_read) ** 0.5
    assert np.abs(counts - count / 85).max() < 4.5 * error
    if per_read > 1 and options.get("read_frames", 16) > 16:
        spread = np.ptp(windows.first.reshape(-1, per_read), axis=1)
        assert spread.max() > 0


def test_read_frames_alone_changes_nothing(index):
    options = {"window": 16, "windows_per_run": 4, "seed": 0, "epoch": 0}
    plain = random_windows(index, **options)
    assert _same(random_windows(index, read_frames=64, **options), plain)


def _events(rows):
    return pd.DataFrame(rows, columns=["run_id", "onset", "trial_type"]).assign(duration=2.0)


def test_event_windows_begin_a_delay_after_the_onset(index):
    runs = index.run_id.tolist()
    events = _events([
        (runs[3], 30.0, "face"), (runs[0], 10.0, "tool"), (runs[0], 0.0, "face"),
        (runs[0], 64.0, "face"),  # its window reaches beyond frame 100
        (runs[1], 0.0, "rest"), (runs[1], 0.0, ""), ("unknown", 1.0, "body"),
    ])  # fmt: skip
    found = event_windows(index, events, window=5.5, delay=4.0)
    first = [round(seconds / 0.72) for seconds in (4.0, 14.0, 34.0)]
    assert _starts(found.windows) == [
        (0, first[0], 8), (0, first[1], 8), (1, first[0], 8), (3, first[2], 8)]  # fmt: skip
    assert found.windows.label.tolist() == [0, 2, 1, 0]
    assert found.trial_types == ("face", "rest", "tool")
    assert found.left_out == 1
    assert [r.label for r in next(found.windows.batches(9))] == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("events", "options"),
    [
        ([(0.0, "face")], {"window": 101 * 0.72}),
        ([(0.0, "face")], {"delay": -1.0}),
        ([(0.0, "")], {}),
        ([], {}),
    ],
)
def test_events_without_a_window_are_an_error(index, events, options):
    events = _events([(index.run_id[0], *event) for event in events])
    with pytest.raises(TrainingError, match="of the chosen runs: expected at least one"):
        event_windows(index, events, **{"window": 5.5, "delay": 0.0, **options})


def test_windows_of_events_are_whole_patches_of_each_runs_own_frames(index):
    slow = replace(index, tr=np.where(np.arange(len(index)) == 1, 2.0, 0.72))
    events = _events([(index.run_id[0], 7.2, "face"), (index.run_id[1], 4.0, "face"),
                      (index.run_id[0], 1.0, "late")])  # fmt: skip
    for window, patch, wanted in ((8.0, 1, (11, 4)), (8.0, 4, (12, 4)), (0.1, 3, (3, 3))):
        found = event_windows(slow, events[:2], window=window, delay=0.0, patch=patch).windows
        assert _starts(found) == [(0, 10, wanted[0]), (1, 2, wanted[1])]
    # A type without any window is left out.
    events.loc[2, "onset"] = 1e4
    found = event_windows(slow, events, window=8.0, delay=0.0)
    assert (found.trial_types, found.left_out) == (("face",), 1)


@pytest.fixture
def mixed(index):
    """Make an index of two stores, of 4 runs and of 1."""
    return replace(index, store=np.array([0, 1, 0, 0, 0]))


@pytest.mark.parametrize("per_read", [1, 2])
@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (9, 1), (0.1, 0.2)])
def test_a_mix_gives_every_store_its_share_and_every_run_its_turn(mixed, weights, per_read):
    options = {"window": 8, "windows_per_run": 4, "seed": 2, "windows_per_read": per_read}
    epochs = [mixed_windows(mixed, weights, epoch=epoch, **options) for epoch in range(12)]
    wanted = 20 * np.array(weights) / sum(weights)
    for epoch, windows in enumerate(epochs):
        assert len(windows) == 20
        assert windows.epoch == epoch
        counts = np.bincount(mixed.store[windows.run], minlength=2)
        assert np.abs(counts - wanted).max() <= per_read
        assert (windows.first + windows.n_frames <= mixed.n_frames[windows.run]).all()
        assert _same(windows, mixed_windows(mixed, weights, epoch=epoch, **options))
        if per_read == 2:
            assert (windows.run.reshape(-1, 2)[:, 0] == windows.run.reshape(-1, 2)[:, 1]).all()
    assert not _same(epochs[0], epochs[1])
    turns = np.bincount(np.concatenate([w.run for w in epochs]))[mixed.store == 0]
    assert turns.max() - turns.min() <= 4  # the windows of one run in one pass


def test_a_store_goes_on_in_the_next_epoch_where_it_stopped(mixed):
    """In a small share of an epoch, all runs of a store come up before one does again."""
    epochs = [
        mixed_windows(mixed, (1, 9), window=8, windows_per_run=2, seed=0, epoch=epoch)
        for epoch in range(8)
    ]
    runs = np.concatenate([w.run[mixed.store[w.run] == 0] for w in epochs])
    assert sorted(runs.tolist()) == [0, 0, 2, 2, 3, 3, 4, 4]


def _plans(index):
    mixed = replace(index, store=np.array([0, 1, 0, 0, 0]))
    drawn = {"window": 8, "windows_per_run": 4, "seed": 7}
    return [
        lambda epoch: random_windows(index, epoch=epoch, **drawn),
        lambda epoch: random_windows(index, epoch=epoch, windows_per_read=2, **drawn),
        lambda epoch: mixed_windows(mixed, (2, 1), epoch=epoch, **drawn),
    ]


@pytest.mark.parametrize("plan", range(3))
@pytest.mark.parametrize("batch_size", [1, 5, 8, 64])
def test_any_number_of_ranks_reads_each_sample_once_in_the_same_steps(index, plan, batch_size):
    """Ranks x workers: a step's windows are the same set whatever the number of processes.

    A loader gives each batch of its rank to one worker: workers cannot change who reads what.
    """
    stream = WindowBatches(_plans(index)[plan], batch_size=batch_size)
    steps = 2 * stream.steps_per_epoch
    alone = list(islice(stream, steps))
    for size in (1, 2, 3, 4, 7):
        ranks = [ShareOfBatches(stream, Ranks(rank, size)) for rank in range(size)]
        shares = [list(islice(rank, steps)) for rank in ranks]
        for step, batch in enumerate(alone):
            read = [r for share in shares for r in share[step] if r.sample >= 0]
            assert sorted(read) == batch  # a batch is sorted by its samples' numbers
            assert all(share[step] for share in shares)  # a collective needs every rank
    per_epoch = len(_plans(index)[plan](0))
    assert [r.sample for batch in alone for r in batch] == 2 * list(range(per_epoch))


@pytest.mark.parametrize("plan", range(3))
def test_mid_epoch_resume_under_another_number_of_ranks_is_exact(index, plan):
    windows_of = _plans(index)[plan]
    whole = list(islice(WindowBatches(windows_of, batch_size=6), 30))
    position, done, rng = {"epoch": 0, "seen": 0}, [], np.random.default_rng(plan)
    while len(done) < 30:
        size, steps = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        stream = WindowBatches(windows_of, batch_size=6, **position)
        shares = [islice(ShareOfBatches(stream, Ranks(rank, size)), steps) for rank in range(size)]
        for step in zip(*shares, strict=True):
            done.append(sorted(r for share in step for r in share if r.sample >= 0))
        position = {"epoch": done[-1][-1].epoch, "seen": done[-1][-1].sample + 1}
    assert done[:30] == whole


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_going_on_from_any_point_gives_the_same_batches(index, batch_size):
    options = {"window": 32, "windows_per_run": 3, "batch_size": batch_size, "seed": 5}
    batches = list(islice(random_batches(index, **options), 40))
    for stop in range(0, 30, 3):
        last = batches[stop][-1]
        rest = random_batches(index, epoch=last.epoch, seen=last.sample + 1, **options)
        assert list(islice(rest, 10)) == batches[stop + 1 : stop + 11]


def test_an_epoch_has_as_many_steps_as_said_and_every_window_once(index):
    batches = random_batches(index, window=32, windows_per_run=3, batch_size=4, seed=5)
    assert batches.steps_per_epoch == 4
    epoch = list(islice(batches, 4))
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
