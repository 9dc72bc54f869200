"""Run the tasks of a plan: one by one in this process, or on a Dask cluster."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fmritok.errors import FmritokError, MachineError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.records import RunRecord
from fmritok.pipeline.tokenization.dask_faults import (
    LostRuns,
    Outcome,
    Patience,
    scheduler_watched,
    stopping_error,
)
from fmritok.pipeline.tokenization.task import Job, RunTask, tokenize_run
from fmritok.pipeline.tokenization.telling import Follow, followed

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["default_workers", "run_on_dask", "run_serially"]

#: Tasks handed out per worker: one at work, one to follow.
_IN_FLIGHT = 2
#: How long to wait for a task before workers that joined are looked for, s.
_LOOK_AGAIN_S = 5.0
#: Times a task may lose its worker before its run is given up.
_ALLOWED_FAILURES = 2
#: On loopback; another port is taken if this one is in use.
_DASHBOARD = "127.0.0.1:8787"
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


def run_serially(
    tasks: Sequence[RunTask], job: Job, *, follow: Follow | None = None
) -> Generator[Outcome]:
    """Tokenize runs in this process, in order; ``follow`` is told how far each is."""
    for task in tasks:
        yield task, tokenize_run(task, job, follow)


def run_on_dask(
    tasks: Sequence[RunTask],
    job: Job,
    *,
    scheduler: str | None = None,
    cluster: Path | None = None,
    workers: int | None = None,
    trusted: str | None = None,
    say: Say = print,
    follow: Follow | None = None,
) -> Generator[Outcome]:
    """Tokenize runs on a Dask cluster, in the order in which they finish.

    A run that takes its worker down with it is tried again on another, then given up; the rest goes
    on. A bounded number of tasks is out at any time, and only small records come back. When the
    machine is at fault, no more tasks are handed out; those that are out end first.

    Parameters
    ----------
    tasks : sequence of RunTask
    job : Job
    scheduler : str, optional
        Address of a running cluster.
    cluster : Path, optional
        YAML of a cluster to start, see :mod:`fmritok.pipeline.tokenization.clusters`.
        Default, with neither: a ``LocalCluster`` for this call.
    workers : int, optional
        Of the local cluster; default: :func:`default_workers`.
    trusted : str, optional
        A class of clusters that the YAML may name, see
        :mod:`fmritok.pipeline.tokenization.clusters`.
    say : callable
        Told the address of the dashboard.
    follow : callable, optional
        Told now and then how much of each run at work is done.

    Raises
    ------
    MachineError
        If the machine, the scheduler or the workers are at fault.
    FmritokError
        If the store's objects are not visible to other processes.
    """
    from distributed import KilledWorker

    if not Location(job.store).is_shared:
        raise FmritokError(
            expected("Store", job.store, "a place that worker processes can see", "memory://",
                     "Use --executor serial.")
        )  # fmt: skip
    # A scheduler may serve several calls: two tasks of one key would be one task to it.
    call = f"{job.store}-{uuid.uuid4().hex}"
    with _client(job, scheduler, cluster, workers, trusted) as (client, threads):
        say(f"Dask dashboard: {client.dashboard_link}")
        job = replace(job, threads=threads)
        if follow:
            job = replace(job, topic=f"fmritok-{uuid.uuid4().hex}")
            followed(client, job.topic, follow)
        waiting, lost = iter(tasks), LostRuns(job)
        flying: dict[Future, RunTask] = {}
        stop: MachineError | None = None
        patience = Patience(is_local=not (scheduler or cluster))
        while True:
            with scheduler_watched(client):
                # Workers may join late or leave: look at how many there are, again and again.
                threads_now = sum(client.nthreads().values())
                patience.check(threads_now)
                room = _IN_FLIGHT * max(1, threads_now) - len(flying)
                for task in islice(waiting, 0 if stop else max(0, room)):
                    key = f"{task.run_id}-{call}"
                    future = client.submit(tokenize_run, task, job, key=key, pure=False)
                    flying[future] = task
                finished = _finished(flying)
            for future, error, records in finished:
                task = flying.pop(future)
                future.release()
                if records is not None:
                    lost.add_survived()
                    yield task, records
                elif isinstance(error, KilledWorker):
                    lost.add(task, error)
                else:
                    stop = stop or stopping_error(task, error)
            over = not (flying or finished)
            stop = stop or lost.machine_error(at_end=over)
            if not stop:
                yield from lost.recorded(at_end=over)
            if over or (stop and not flying):
                break
        if stop:
            raise stop


def _finished(
    flying: dict[Future, RunTask],
) -> list[tuple[Future, BaseException | None, dict[str, RunRecord] | None]]:
    """Wait a while for tasks to end; return their errors or their records."""
    from distributed import wait

    try:
        done = wait(list(flying), _LOOK_AGAIN_S, "FIRST_COMPLETED").done if flying else ()
    except TimeoutError:
        return []
    errors = [(future, future.exception()) for future in done]
    return [(future, e, None if e else future.result()) for future, e in errors]


@contextmanager
def _client(
    job: Job,
    scheduler: str | None,
    recipe: Path | None,
    workers: int | None,
    trusted: str | None,
) -> Iterator[tuple[Client, int]]:
    """Connect to a cluster, or make one whose workers share the cores without crowding them."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        with _connected(scheduler) as client:
            yield client, 0
        return
    if recipe:
        from fmritok.pipeline.tokenization.clusters import started

        with started(recipe, trusted) as found, Client(found) as client:
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
                    # Its pages and its "stop" button are for this machine only.
                    host="127.0.0.1",
                    dashboard_address=_DASHBOARD,
                    local_directory=job.scratch or None,
                    silence_logs=50,
                )
            )
        except (RuntimeError, OSError) as error:  # a worker died before it was there
            raise MachineError(
                expected("Dask cluster", "on this machine", f"{count} workers to start",
                         f"{type(error).__name__}: {error}",
                         "Run the same command again; with less memory, use --workers 1.")
            ) from error  # fmt: skip
        yield stack.enter_context(Client(cluster)), threads


def _connected(scheduler: str) -> Client:
    from distributed import Client

    try:
        return Client(scheduler)
    except (OSError, ValueError) as error:
        raise MachineError(
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
