"""Run the tasks of a plan: one by one in this process, or on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fmritok.pipeline.errors import FmritokError, NoSpaceError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.records import RunRecord
from fmritok.pipeline.task import Job, RunTask, fail_run, tokenize_run

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["default_workers", "run_on_dask", "run_serially"]

#: Tasks handed out per worker: one at work, one to follow.
_IN_FLIGHT = 2
#: How long to wait for a task before workers that joined are looked for, s.
_LOOK_AGAIN_S = 5.0
#: Times a task may lose its worker before its run is given up.
_ALLOWED_FAILURES = 2
#: What a worker with the full-size autoencoder needs for a long run, bytes.
_MEMORY_A_WORKER = 4e9

Say = Callable[[str], None]
Outcome = tuple[RunTask, dict[str, RunRecord]]


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


def run_serially(tasks: Sequence[RunTask], job: Job) -> Iterator[Outcome]:
    """Tokenize runs in this process, in order."""
    for task in tasks:
        yield task, tokenize_run(task, job)


def run_on_dask(
    tasks: Sequence[RunTask],
    job: Job,
    *,
    scheduler: str | None = None,
    cluster: Path | None = None,
    workers: int | None = None,
    say: Say = print,
) -> Iterator[Outcome]:
    """Tokenize runs on a Dask cluster, in the order in which they finish.

    A run that takes its worker down with it is tried again on another, then given up; the rest goes
    on. A bounded number of tasks is out at any time, and only small records come back.

    Parameters
    ----------
    tasks : sequence of RunTask
    job : Job
    scheduler : str, optional
        Address of a running cluster.
    cluster : Path, optional
        YAML of a cluster to start, see :mod:`fmritok.pipeline.clusters`. Default, with neither: a
        ``LocalCluster`` for this call.
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
    from distributed import wait

    if not Location(job.store).is_shared:
        raise FmritokError(
            expected("Store", job.store, "a place that worker processes can see", "memory://",
                     "Use --executor serial.")
        )  # fmt: skip
    with _client(job, scheduler, cluster, workers) as (client, threads):
        say(f"Dask dashboard: {client.dashboard_link}")
        job = replace(job, threads=threads)
        waiting = iter(tasks)
        flying: dict[Future, RunTask] = {}
        while True:
            # Workers may join late or leave: look at how many there are, again and again.
            room = _IN_FLIGHT * max(1, sum(client.nthreads().values())) - len(flying)
            for task in islice(waiting, max(0, room)):
                future = client.submit(tokenize_run, task, job, key=task.run_id, pure=False)
                flying[future] = task
            if not flying:
                return
            try:
                finished = wait(list(flying), _LOOK_AGAIN_S, "FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in finished:
                task = flying.pop(future)
                error = future.exception()
                if isinstance(error, NoSpaceError):
                    raise error
                records = _lost(task, job, error) if error else future.result()
                future.release()
                yield task, records


@contextmanager
def _client(
    job: Job, scheduler: str | None, recipe: Path | None, workers: int | None
) -> Iterator[tuple[Client, int]]:
    """Connect to a cluster, or make one whose workers share the cores without crowding them."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        with _connected(scheduler) as client:
            yield client, 0
        return
    if recipe:
        from fmritok.pipeline.clusters import started

        with started(recipe) as found, Client(found) as client:
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


def _connected(scheduler: str) -> Client:
    from distributed import Client

    try:
        return Client(scheduler)
    except (OSError, ValueError) as error:
        raise FmritokError(
            expected("Dask scheduler", scheduler, "one that answers, at tcp://HOST:PORT",
                     f"{type(error).__name__}: {error}",
                     "Start it with `dask scheduler`, or check the address.")
        ) from error  # fmt: skip


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


def _lost(task: RunTask, job: Job, error: BaseException) -> dict[str, RunRecord]:
    """Record a run whose worker died under it, as often as it was tried."""
    reason = expected("Worker", f"of run {task.run_id}", "to survive",
                      f"{type(error).__name__}: {error}",
                      "Give it more memory, or leave the run out.")  # fmt: skip
    return fail_run(task, job, reason)
