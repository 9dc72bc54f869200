"""Run the tasks of a plan: one by one in this process, or on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from fmritok.pipeline.errors import FmritokError, NoSpaceError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.task import GroupJob, RunTask, tokenize_run

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["default_workers", "run_on_dask", "run_serially"]

#: Tasks handed out per worker: one at work, one to follow.
_IN_FLIGHT = 2
#: Times a task may lose its worker before its run is given up.
_ALLOWED_FAILURES = 2
#: What a worker with the full-size autoencoder needs for a long run, bytes.
_MEMORY_A_WORKER = 4e9

Say = Callable[[str], None]


def default_workers() -> int:
    """Return one worker per GPU; without one, one per core as far as memory allows.

    Workers of one thread each read, encode and write side by side, and do not wait for one another
    at every layer as the threads of one worker do.
    """
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    room = int(psutil.virtual_memory().available // _MEMORY_A_WORKER)
    return max(1, min(os.cpu_count() or 1, room))


def run_serially(tasks: Sequence[RunTask], job: GroupJob) -> Iterator[tuple[RunTask, RunRecord]]:
    """Tokenize runs in this process, in order."""
    for task in tasks:
        yield task, tokenize_run(task, job)


def run_on_dask(
    tasks: Sequence[RunTask],
    job: GroupJob,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    say: Say = print,
) -> Iterator[tuple[RunTask, RunRecord]]:
    """Tokenize runs on a Dask cluster, in the order in which they finish.

    A run that takes its worker down with it is tried again on another, then given up; the rest goes
    on. A bounded number of tasks is out at any time, and only small records come back.

    Parameters
    ----------
    tasks : sequence of RunTask
    job : GroupJob
    scheduler : str, optional
        Address of a running cluster; default: a ``LocalCluster`` for this call.
    workers : int, optional
        Of the local cluster; default: :func:`default_workers`.
    say : callable
        Told the address of the dashboard.

    Raises
    ------
    NoSpaceError
        If a disk is full; tasks that are at work are finished or cancelled first.
    FmritokError
        If the store's objects are not visible to other processes.
    """
    from distributed import as_completed

    if not Location(job.store).is_shared:
        raise FmritokError(
            expected("Store", job.store, "a place that worker processes can see", "memory://",
                     "Use --executor serial.")
        )  # fmt: skip
    with _client(job, scheduler, workers) as (client, threads):
        say(f"Dask dashboard: {client.dashboard_link}")
        job = replace(job, threads=threads)
        waiting = iter(tasks)
        owners = {}
        pending = as_completed()

        def submit_next() -> None:
            task = next(waiting, None)
            if task is not None:
                future = client.submit(tokenize_run, task, job, key=task.run_id, pure=False)
                owners[future.key] = task
                pending.add(future)

        for _ in range(_IN_FLIGHT * max(1, len(client.scheduler_info()["workers"]))):
            submit_next()
        for future in pending:
            task = owners.pop(future.key)
            error = future.exception()
            if isinstance(error, NoSpaceError):
                raise error
            record = _lost(task, job, error) if error else future.result()
            future.release()
            submit_next()
            yield task, record


@contextmanager
def _client(
    job: GroupJob, scheduler: str | None, workers: int | None
) -> Iterator[tuple[Client, int]]:
    """Connect to a cluster, or make one whose workers share the cores without crowding them."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        with Client(scheduler) as client:
            yield client, 0
        return
    count = workers or default_workers()
    threads = max(1, (os.cpu_count() or 1) // count)
    settings = {
        "distributed.nanny.pre-spawn-environ": _worker_environment(threads),
        "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
        "distributed.worker.daemon": True,
        "distributed.logging.distributed": "error",
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        try:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    local_directory=job.scratch or None,
                    silence_logs=50,
                )
            )
        except RuntimeError as error:  # a worker died before it was there
            raise FmritokError(
                expected("Dask cluster", "on this machine", f"{count} workers to start", error,
                         "Run the same command again; with less memory, use --workers 1.")
            ) from error  # fmt: skip
        yield stack.enter_context(Client(cluster)), threads


def _worker_environment(threads: int) -> dict[str, str]:
    """Return what a worker's process has to find when it starts.

    Dask's own settings are one thread, and a heap that is given back to the system after every
    layer of a network: encoding then spends more than half of its time on page faults.
    """
    heap = str(256 << 20)
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin take busy cores from one another
        "MALLOC_TRIM_THRESHOLD_": heap,
        "MALLOC_MMAP_THRESHOLD_": heap,
    }


def _lost(task: RunTask, job: GroupJob, error: BaseException) -> RunRecord:
    """Record a run whose worker died under it, as often as it was tried."""
    reason = expected("Worker", f"of run {task.run_id}", "to survive",
                      f"{type(error).__name__}: {error}",
                      "Give it more memory, or leave the run out.")  # fmt: skip
    record = RunRecord(task.run_id, "failed", reason=reason)
    write_record(Location(job.store), job.group, record)
    return record
