"""Tokenizing is killed in every way, and the same command leaves the same store."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cohorts import write_run
from commands import inspect, written
from tiny import fmritok

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.records import list_records

#: How often processes are killed; the default keeps the suite short.
KILLS = int(os.environ.get("FMRITOK_KILLS", "1"))


class Killable:
    """``fmritok tokenize`` in a process of its own."""

    def __init__(self, tree: Path, store: Path, weights: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fmritok.cli", "tokenize", "--dataset", "hcp",
             "--root", tree, "--store", store, "--weights", weights, "--workers", "2"],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.store = store

    def wait_for_runs(self, count: int) -> None:
        """Return once so many runs have their record, or the process has ended."""
        while self.process.poll() is None:
            planned = (self.store / "vae" / "runs").exists()
            if planned and len(list_records(Location(self.store), "vae")) >= count:
                break
            time.sleep(0.01)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [c for c in children if c.is_running() and c.memory_info().rss > 5e7]

    def finish(self) -> int:
        output, _ = self.process.communicate()
        self.output = output
        return self.process.returncode


@pytest.fixture(scope="module")
def killing_ground(tmp_path_factory, weights):
    """Make a cohort that takes some seconds, and tokenize it once without interruption."""
    root = tmp_path_factory.mktemp("cohort")
    for i in range(6):
        write_run(root, f"30000{i}", frames=16)
    store = tmp_path_factory.mktemp("once") / "t.zarr"
    run = Killable(root, store, weights)
    assert run.finish() == 0, run.output
    return root, written(store)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(KILLS))
def test_kill_9_of_the_tokenizer_and_rerun(killing_ground, tmp_path, weights, moment):
    root, expected = killing_ground
    store = tmp_path / "t.zarr"
    run = Killable(root, store, weights)
    chance = random.Random(moment)
    run.wait_for_runs(chance.randint(0, 3))
    time.sleep(chance.uniform(0, 0.5))
    run.process.send_signal(signal.SIGKILL)
    run.finish()
    before = {r["status"] for r in inspect(store)["runs"]}
    rerun = Killable(root, store, weights)
    assert rerun.finish() == 0, (before, rerun.output)
    assert written(store) == expected
    assert fmritok("verify", "--store", store).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(KILLS))
def test_kill_9_of_a_worker(killing_ground, tmp_path, weights, moment):
    root, expected = killing_ground
    store = tmp_path / "t.zarr"
    run = Killable(root, store, weights)
    chance = random.Random(100 + moment)
    run.wait_for_runs(chance.randint(1, 3))
    time.sleep(chance.uniform(0, 0.2))
    while not (victims := run.workers()):
        assert run.process.poll() is None, "it ended before a worker could be killed"
        time.sleep(0.01)
    chance.choice(victims).kill()
    assert run.finish() == 0, run.output
    assert Killable(root, store, weights).finish() == 0
    assert written(store) == expected
    assert fmritok("verify", "--store", store).exit_code == 0


@pytest.mark.slow
def test_sigterm_ends_cleanly(killing_ground, tmp_path, weights):
    root, expected = killing_ground
    store = tmp_path / "t.zarr"
    run = Killable(root, store, weights)
    run.wait_for_runs(1)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 143
    assert "run the same command to go on" in run.output
    assert Killable(root, store, weights).finish() == 0
    assert written(store) == expected
