"""Executors: run the tasks of a plan one by one in this process, or on a Dask cluster."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fmritok.device import count_cores
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
from fmritok.pipeline.tokenization.job import Job, RunTask
from fmritok.pipeline.tokenization.local_cluster import (
    default_workers,
    started_here,
    worker_gpus,
)
from fmritok.pipeline.tokenization.task import tokenize_run
from fmritok.pipeline.tokenization.telling import Follow, followed

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["run_on_dask", "run_serially"]

#: Submitted tasks per worker: one running, one queued.
_IN_FLIGHT = 2
#: How long to wait for a task before counting the workers again, s.
_LOOK_AGAIN_S = 5.0

Say = Callable[[str], None]


def run_serially(
    tasks: Sequence[RunTask], job: Job, *, follow: Follow | None = None
) -> Generator[Outcome]:
    """Tokenize runs one after another in this process; ``follow`` is told the progress of each."""
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
    """Tokenize runs on a Dask cluster. Yields results in the order of completion.

    A run that kills its worker is tried again on another one, then given up; other runs continue.
    The number of submitted tasks is bounded, and tasks return only small records. After a fault of
    the machine no more tasks are submitted, and running ones may finish.

    Parameters
    ----------
    tasks : sequence of RunTask
    job : Job
    scheduler : str, optional
        Address of a running cluster.
    cluster : Path, optional
        YAML file of a cluster to start; see :mod:`fmritok.pipeline.tokenization.clusters`.
        Default, without ``scheduler``: a ``LocalCluster`` for this call.
    workers : int, optional
        Workers of the local cluster. Default: two per GPU, or one per core; see
        :mod:`fmritok.pipeline.tokenization.local_cluster`.
    trusted : str, optional
        Another class of clusters allowed in the YAML; see
        :mod:`fmritok.pipeline.tokenization.clusters`.
    say : callable
        Called with messages for the user, such as the address of the dashboard.
    follow : callable, optional
        Called now and then with the progress of each running task.

    Raises
    ------
    MachineError
        If the machine, the scheduler or the workers are at fault.
    FmritokError
        If other processes cannot see the objects of the store.
    """
    from distributed import KilledWorker

    if not Location(job.store).is_shared:
        raise FmritokError(
            expected("Store", job.store, "a store that worker processes can open", "memory://",
                     "Use --executor serial.")
        )  # fmt: skip
    # Keys must be unique: a scheduler that serves several calls merges tasks with equal keys.
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
                # Workers may join late or leave: count them in every round.
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
    """Wait a while for tasks to finish, and return their errors or records."""
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
    cluster_file: Path | None,
    workers: int | None,
    trusted: str | None,
) -> Iterator[tuple[Client, int]]:
    """Connect to a cluster, or start one with at most one thread per core."""
    from distributed import Client

    if scheduler:
        with _connected(scheduler) as client:
            yield client, 0
        return
    if cluster_file:
        from fmritok.pipeline.tokenization.clusters import started

        with started(cluster_file, trusted) as found, Client(found) as client:
            yield client, 0
        return
    count = workers or default_workers()
    threads = max(1, count_cores() // count)
    gpus = worker_gpus(job, count)
    with (
        started_here(count, threads, gpus=gpus, scratch=job.scratch) as cluster,
        Client(cluster) as client,
    ):
        yield client, threads


def _connected(scheduler: str) -> Client:
    from distributed import Client

    try:
        return Client(scheduler)
    except (OSError, ValueError) as error:
        raise MachineError(
            expected("Dask scheduler", scheduler, "an answer at tcp://HOST:PORT",
                     f"{type(error).__name__}: {error}",
                     "Start it with `dask scheduler`, or check the address.")
        ) from error  # fmt: skip
