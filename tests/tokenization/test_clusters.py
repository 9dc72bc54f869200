"""Schedulers and workers for real: killed, late, lost; several clients; addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
from cohorts import write_run
from commands import SERIES, tokenize_series

from fmritok.errors import MachineError
from fmritok.pipeline.sources.opening import RunFiles
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import RunRecord
from fmritok.pipeline.store.verify import verify_store
from fmritok.pipeline.tokenization import execute, local_cluster
from fmritok.pipeline.tokenization.dask_faults import LostRuns, Patience
from fmritok.pipeline.tokenization.job import Job, RunTask

RUNS = 24


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("many") / "hcp"
    for i in range(RUNS):
        write_run(root, f"{100001 + i}", frames=24)
    return root


def started(*arguments):
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def scheduler():
    """Start a scheduler process on loopback, as the documentation does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = started("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"tcp://127.0.0.1:{port}"
    stop(process)


def objects(store):
    """Every object of a store that holds tokens or says something of a run, by name."""
    kept = {"tokens", "mean", "std", "scale", "samples", "coverage", "runs"}
    found = {path.relative_to(store): path for path in Path(store).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if kept & {*name.parts[1:2]}}


@pytest.mark.slow
def test_a_killed_and_a_late_worker_leave_the_same_store(many_runs, tmp_path, scheduler):
    """Two worker processes; one is killed in the middle of a run, a third joins on the way."""
    reference = tmp_path / "serial.zarr"
    assert tokenize_series(many_runs, reference, "--executor", "serial").exit_code == 0
    worker = ("worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    workers = [started(*worker), started(*worker)]
    store = tmp_path / "cluster.zarr"
    command = subprocess.Popen(
        [sys.executable, "-m", "fmritok.cli", "tokenize", "--dataset", "hcp", "--root",
         str(many_runs), "--store", str(store), *SERIES, "--scheduler", scheduler],
        env={**os.environ, "PYTHONSAFEPATH": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        finished = store / "network" / "records"
        while command.poll() is None and len(list(finished.glob("*/zarr.json"))) < 3:
            time.sleep(0.01)
        stop(workers[0])
        workers.append(started(*worker))
        output, errors = command.communicate()
    finally:
        for process in (*workers, command):
            stop(process)
    assert command.returncode == 0, output + errors
    assert len(TokenStore(store).group("network").runs) == RUNS
    assert objects(store) == objects(reference)
    assert list(verify_store(TokenStore(store).location)) == []


def test_a_scheduler_that_does_not_answer_is_one_error(two_runs, tmp_path, monkeypatch):
    import dask
    import distributed  # noqa: F401  its own defaults must be there before one is changed

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = tokenize_series(two_runs, tmp_path / "t.zarr", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 1
    assert "Dask scheduler tcp://127.0.0.1:1: expected an answer at tcp" in result.output


@pytest.fixture
def threads_of_this_process():
    """Start a scheduler and two workers in this process, which see what a test replaces."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://",
                      dashboard_address=None) as cluster:  # fmt: skip
        yield cluster.scheduler_address


def some_tasks(count):
    return [RunTask(f"hcp_{i}_REST1", RunFiles(Path("x")), 1, 0.72, ()) for i in range(count)]


def quiet(_):
    """Say nothing."""


def test_two_tokenizations_on_one_scheduler_get_their_own_results(
    threads_of_this_process, monkeypatch
):
    def slow(task, job):
        time.sleep(0.3)
        return {"vae": RunRecord(task.run_id, "done", reason=job.store)}

    monkeypatch.setattr(execute, "tokenize_run", slow)
    calls = {
        store: execute.run_on_dask(
            some_tasks(3), Job(store, {}), scheduler=threads_of_this_process, say=quiet
        )
        for store in ("/a.zarr", "/b.zarr")
    }
    first = {store: next(call) for store, call in calls.items()}  # both are at work now
    for store, call in calls.items():
        told = [first[store], *call]
        assert sorted(task.run_id for task, _ in told) == [t.run_id for t in some_tasks(3)]
        assert {records["vae"].reason for _, records in told} == {store}


def test_tasks_at_work_end_before_a_fault_of_the_machine_does(threads_of_this_process, monkeypatch):
    def task_of(task, job):
        if task.run_id == "hcp_0_REST1":
            raise MachineError("no memory")
        time.sleep(1)
        return {"vae": RunRecord(task.run_id, "done")}

    monkeypatch.setattr(execute, "tokenize_run", task_of)
    outcomes = execute.run_on_dask(
        some_tasks(40), Job("/a.zarr", {}), scheduler=threads_of_this_process, say=quiet
    )
    got = []
    with pytest.raises(MachineError, match="no memory"):  # noqa: PT012  what comes before counts
        for task, _ in outcomes:
            got.append(task.run_id)
    assert "hcp_1_REST1" in got
    assert len(got) < 6


def test_a_task_that_no_worker_can_run_is_one_error(threads_of_this_process, monkeypatch):
    def other_version(task, job):
        raise ModuleNotFoundError("No module named 'fmritok'")

    monkeypatch.setattr(execute, "tokenize_run", other_version)
    with pytest.raises(MachineError, match="the same version of fmritok on all machines"):
        list(execute.run_on_dask(some_tasks(3), Job("/a.zarr", {}),
                                 scheduler=threads_of_this_process, say=quiet))  # fmt: skip


@pytest.mark.slow
def test_a_scheduler_that_dies_on_the_way_is_one_error(scheduler, monkeypatch):
    def slow(task, job):
        time.sleep(0.5)
        return {}

    monkeypatch.setattr(execute, "tokenize_run", slow)
    worker = started("worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    outcomes = execute.run_on_dask(some_tasks(20), Job("/a.zarr", {}), scheduler=scheduler,
                                   say=quiet)  # fmt: skip
    try:
        next(outcomes)
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "scheduler" in command and scheduler.rpartition(":")[2] in command:
                process.kill()
        with pytest.raises(MachineError, match=f"{scheduler}: expected a stable connection"):
            list(outcomes)
    finally:
        stop(worker)


def test_workers_that_the_system_kills_are_one_error_with_the_next_step(monkeypatch):
    """The default cluster, whose only worker dies at every run."""

    def die(task, job):
        os._exit(1)

    monkeypatch.setattr(execute, "tokenize_run", die)
    monkeypatch.setattr(local_cluster, "_ALLOWED_FAILURES", 0)
    with pytest.raises(MachineError, match=r"hcp_\d_REST1, .* workers that survive.*use fewer --w"):
        list(execute.run_on_dask(some_tasks(6), Job("/a.zarr", {}), workers=1, say=quiet))


def test_a_run_that_kills_its_worker_fails_alone_where_others_survive(tmp_path):
    lost = LostRuns(Job(str(tmp_path / "t.zarr"), {}))
    first, second, *_ = some_tasks(2)
    lost.add(first, RuntimeError("KilledWorker"))
    assert lost.recorded() == []
    lost.add_survived()
    assert lost.machine_error() is None
    assert [task for task, _ in lost.recorded()] == [first]
    lost.add(second, RuntimeError("KilledWorker"))
    assert lost.machine_error(at_end=True) is None
    assert [task for task, _ in lost.recorded(at_end=True)] == [second]
    alone = LostRuns(Job(str(tmp_path / "t.zarr"), {}))
    alone.add(first, RuntimeError("KilledWorker"))
    assert "runs hcp_0_REST1" in str(alone.machine_error(at_end=True))


def test_a_local_cluster_without_workers_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr("fmritok.pipeline.tokenization.dask_faults.WITHOUT_WORKERS_S", 0.0)
    Patience(is_local=False).check(0)
    local = Patience(is_local=True)
    local.check(1)
    time.sleep(0.01)
    with pytest.raises(MachineError, match="a live worker"):
        local.check(0)


def test_a_worker_that_cannot_start_is_one_error(two_runs, tmp_path, monkeypatch):
    class NoStart:
        def __init__(self, **_):
            raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", NoStart)
    result = tokenize_series(two_runs, tmp_path / "t.zarr", "--workers", "1")
    assert result.exit_code == 1
    assert "1 worker to start, got RuntimeError: Nanny failed to start" in result.output
    assert "--workers 1" in result.output


@pytest.mark.parametrize("taken", [False, True])
def test_the_default_cluster_listens_on_loopback_only(taken, monkeypatch):
    """Scheduler, workers and dashboard, also when the dashboard's port is in use."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        if taken:
            free.listen()
        port = free.getsockname()[1]
        if not taken:
            free.close()
        host = local_cluster._DASHBOARD.rpartition(":")[0]
        monkeypatch.setattr(local_cluster, "_DASHBOARD", f"{host}:{port}")

        def work(task, job):
            return {}

        monkeypatch.setattr(execute, "tokenize_run", work)
        said = []
        before = listening()
        outcomes = execute.run_on_dask(some_tasks(1), Job("/a.zarr", {}), workers=1,
                                       say=said.append)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Dask's, of a port that is in use
            next(outcomes)
        found = listening() - before
        list(outcomes)
    assert found
    assert {host for host, _ in found} == {"127.0.0.1"}
    host, _, told = said[0].partition("http://")[2].partition("/")[0].partition(":")
    assert host == "127.0.0.1"
    assert (host, int(told)) in found
    assert (int(told) == port) == (not taken)


def listening():
    """Return the addresses on which this process and its children listen."""
    this = psutil.Process()
    connections = [
        c for p in (this, *this.children(recursive=True)) for c in p.net_connections("inet")
    ]
    return {tuple(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}
