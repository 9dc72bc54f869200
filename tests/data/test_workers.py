"""Loader workers: deaf to signals, and never a reason for the trainer not to end."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from broken import BrokenDataset
from streams import random_batches

from fmritok.errors import StoreError
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data import workers
from fmritok.trainer.data.loader import batch_loader
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.errors import TrainingError

TRAINER = """
import sys
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data.drawing import all_windows
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import RunIndex

if __name__ == "__main__":
    group = TokenStore(sys.argv[1]).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batches = 100 * list(all_windows(index, window=16).batches(2))
    loader = iter(WindowReader(group, index).loader(batches, workers=2))
    next(loader)
    print(*[worker.pid for worker in loader.workers], flush=True)
    if sys.argv[2] == "error":
        raise SystemExit("an error of the trainer's own")
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _notice_soon(monkeypatch):
    """Look after the workers more often than every 5 s, as torch does."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    get_data = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(get_data, "__defaults__", (0.5,))


@pytest.fixture
def store(make_store):
    location, _ = make_store([40, 40], n_tokens=3, dim=4)
    return location.url


def test_workers_outlive_signals_and_end_with_the_trainer(store):
    """A cluster's SIGTERM goes to all processes; only the trainer's wish to end a worker counts."""
    group = TokenStore(store).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batches = random_batches(index, window=16, windows_per_run=1, batch_size=2, seed=0)
    loader = WindowReader(group, index).loader(batches, workers=1)
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
    worker.join()
    assert not worker.is_alive()


@pytest.mark.parametrize("end", ["error", pytest.param("kill", marks=pytest.mark.slow)])
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
    _, errors = trainer.communicate()
    assert trainer.returncode == (1 if end == "error" else -9)
    if end == "error":
        assert errors.strip() == "an error of the trainer's own"
    psutil.wait_procs(workers)


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGKILL, r"ended by SIGKILL \(most likely by the system, because memory ran out\)"),
     (signal.SIGBUS, r"ended by SIGBUS \(shared memory was too small\).*/dev/shm.*--shm-size"),
     (signal.SIGSEGV, "ended by SIGSEGV")],
)  # fmt: skip
def test_a_killed_worker_is_one_error_that_says_how_to_go_on(store, number, said):
    group = TokenStore(store).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batches = random_batches(index, window=16, windows_per_run=1, batch_size=2, seed=0)
    loader = iter(WindowReader(group, index).loader(batches, workers=2))
    next(loader)
    pid = loader.workers[1].pid
    os.kill(pid, number)
    wanted = rf"got process {pid}, which was {said}.*--loader-workers 0"
    with pytest.raises(TrainingError, match=wanted):
        list(loader)  # which has no end


@pytest.mark.slow
def test_a_command_whose_worker_is_killed_prints_one_error(store, tmp_path):
    command = [sys.executable, "-m", "fmritok.cli", "train", "--store", store, "--out",
               str(tmp_path / "a"), "--loader-workers", "1", "--steps", "1000000",
               "--device", "cpu", "--set", "model.width=16", "--set", "model.layers=1"]  # fmt: skip
    trainer = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "a" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
        assert trainer.poll() is None
    (worker,) = [
        process
        for process in psutil.Process(trainer.pid).children(recursive=True)
        if process.ppid() != trainer.pid
    ]
    worker.kill()
    _, errors = trainer.communicate()
    assert trainer.returncode == 1
    assert "Traceback" not in errors
    assert errors.count("Error: ") == 1
    assert "ended by SIGKILL" in errors


def _load(*faults, n_workers=1):
    return iter(
        batch_loader(BrokenDataset(), [], [list(faults)] * 3, workers=n_workers, pin_memory=False)
    )


@pytest.mark.parametrize(
    ("fault", "wanted", "step"),
    [("shm", "enough shared memory", "--shm-size"),
     ("memory", "enough memory", "--loader-workers 0"), ("files", "enough open files", "ulimit -n"),
     ("cpu", "enough memory", "batch_size")],
)  # fmt: skip
def test_what_a_worker_lacks_is_one_error_without_its_traceback(fault, wanted, step):
    with pytest.raises(TrainingError) as caught:
        next(_load(fault))
    text = str(caught.value)
    assert text.startswith(f"Loader workers (--loader-workers): expected {wanted}")
    assert step in text
    assert "Traceback" not in text
    assert "\n" not in text


def test_a_damaged_run_is_reported_without_the_traceback_of_a_worker():
    with pytest.raises(StoreError, match=r"^damaged$"):
        next(_load("store"))


def test_a_mistake_in_the_code_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="Traceback") as caught:
        next(_load("bug"))
    assert not isinstance(caught.value, TrainingError)


@pytest.mark.parametrize("fault", ["share", "unsendable"])
def test_a_batch_that_cannot_be_handed_over_is_an_error_and_no_endless_wait(fault):
    wanted = "enough shared memory" if fault == "share" else "could not hand a batch over"
    with pytest.raises(TrainingError, match=rf"{wanted}.*/dev/shm"):
        next(_load(fault))


@pytest.mark.parametrize(
    ("number", "step"), [(errno.EAGAIN, "limit of processes"), (errno.EMFILE, "ulimit -n")]
)
def test_workers_that_cannot_start_are_one_error(store, monkeypatch, number, step):
    def refuse(process):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(workers._WorkerProcess, "_Popen", staticmethod(refuse))
    got = re.escape(os.strerror(number))
    wanted = rf"expected 2 that start, got .*{got}.*{step}.*--loader-workers 0"
    with pytest.raises(TrainingError, match=wanted):
        _load("none", n_workers=2)
