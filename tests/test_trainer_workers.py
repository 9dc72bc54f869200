"""Loader workers: deaf to signals, and never a reason for the trainer not to end."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
import torch

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.streaming import window_loader
from fmritok.trainer.windows import EndlessBatches, RunIndex

TRAINER = """
import sys
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.streaming import window_loader
from fmritok.trainer.windows import EndlessBatches, RunIndex

if __name__ == "__main__":
    group = TokenStore(sys.argv[1]).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batches = EndlessBatches(index, window=16, windows_per_run=1, batch_size=2, seed=0)
    loader = iter(window_loader(group, index, batches, workers=2))
    next(loader)
    print(*[worker.pid for worker in loader.workers], flush=True)
    if sys.argv[2] == "error":
        raise SystemExit("an error of the trainer's own")
    sys.stdin.read()
"""


@pytest.fixture
def store(make_store):
    location, _ = make_store([40, 40], n_tokens=3, dim=4)
    return location.url


def test_workers_outlive_signals_and_end_with_the_trainer(store):
    """A cluster's SIGTERM goes to all processes; only the trainer's wish to end a worker counts."""
    group = TokenStore(store).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batches = EndlessBatches(index, window=16, windows_per_run=1, batch_size=2, seed=0)
    loader = window_loader(group, index, batches, workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = batches.workers
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    for _ in range(20):
        next(batches)
    assert worker.is_alive()
    del batches
    torch.utils.data._utils.signal_handling._remove_worker_pids(id(loader._iterator))
    loader._iterator._worker_pids_set = False
    worker.terminate()
    worker.join(30)
    assert not worker.is_alive()


@pytest.mark.parametrize("end", ["error", "kill"])
def test_no_worker_is_left_and_none_is_waited_for(store, tmp_path, end):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    trainer = subprocess.Popen(
        [sys.executable, script, store, end],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    workers = [psutil.Process(int(pid)) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 2
    if end == "kill":
        trainer.kill()
    _, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == (1 if end == "error" else -9)
    if end == "error":
        assert errors.strip() == "an error of the trainer's own"
    assert psutil.wait_procs(workers, timeout=30)[1] == []
