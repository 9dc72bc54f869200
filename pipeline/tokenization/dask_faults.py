"""Faults of Dask's scheduler and workers, attributed to the machine or to a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fmritok.errors import MachineError, expected
from fmritok.pipeline.store.records import RunRecord
from fmritok.pipeline.tokenization.job import Job, RunTask
from fmritok.pipeline.tokenization.task import fail_run

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LostRuns", "Outcome", "Patience", "scheduler_watched", "stopping_error"]

#: How long a local cluster may have no worker, s. Dask restarts dead ones.
WITHOUT_WORKERS_S = 60.0

#: Consecutive runs that lose their worker before the machine counts as faulty. (A run queued behind
#: one that kills its worker is lost, too.)
_IN_A_ROW = 4

Outcome = tuple[RunTask, dict[str, RunRecord]]


class LostRuns:
    """Runs that lost their worker in every attempt.

    If a worker later survives another run, the workers are sound, and the lost runs are recorded as
    failed. Until then the cause is unknown, and nothing is recorded.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._waiting: list[tuple[RunTask, BaseException]] = []
        self._in_a_row = 0
        self._any_survived = False

    def add(self, task: RunTask, error: BaseException) -> None:
        """Add a run that lost its workers."""
        self._waiting.append((task, error))
        self._in_a_row += 1

    def add_survived(self) -> None:
        """Note that a worker survived a run."""
        self._in_a_row, self._any_survived = 0, True

    def machine_error(self, *, at_end: bool = False) -> MachineError | None:
        """Return the error that stops the tokenization; None unless the machine is at fault.

        Parameters
        ----------
        at_end : bool
            Whether no other run is running or queued.
        """
        if self._in_a_row < _IN_A_ROW and not (at_end and self._waiting and not self._any_survived):
            return None
        runs = ", ".join(task.run_id for task, _ in self._waiting[-_IN_A_ROW:])
        error = self._waiting[-1][1]
        return MachineError(
            expected("Dask workers", f"of runs {runs}", "workers that survive",
                     f"{type(error).__name__}: {error}",
                     "The system kills processes that take too much memory: give workers more, "
                     "use fewer --workers, or leave these runs out. Then run the same command: "
                     "finished runs are kept.")
        )  # fmt: skip

    def recorded(self, *, at_end: bool = False) -> list[Outcome]:
        """Record the runs that are at fault, and remove them from this list."""
        if self._in_a_row and not at_end:
            return []
        found = [(task, fail_run(task, self._job, _reason(task, e))) for task, e in self._waiting]
        self._waiting.clear()
        return found


def _reason(task: RunTask, error: BaseException) -> str:
    return expected("Worker", f"of run {task.run_id}", "a worker that survives, as for other runs",
                    f"{type(error).__name__}: {error}",
                    "Give it more memory, or leave the run out.")  # fmt: skip


def stopping_error(task: RunTask, error: BaseException | None) -> MachineError:
    """Convert an exception of a task to the error that stops the tokenization.

    Tasks record faults of their runs themselves. Any exception is a fault of the machine.
    """
    if isinstance(error, MachineError):
        return error
    return MachineError(
        expected("Worker", f"of run {task.run_id}", "a worker that can run tasks of fmritok",
                 f"{type(error).__name__}: {error}", "Install the same version of fmritok on all "
                 "machines. Then run the same command: finished runs are kept.")
    )  # fmt: skip


class Patience:
    """Timeout for clusters without workers. Only local clusters time out.

    Parameters
    ----------
    is_local : bool
        Whether the workers run on this machine, started by this call.
    """

    def __init__(self, *, is_local: bool) -> None:
        self._is_local, self._seen = is_local, time.monotonic()

    def check(self, threads: int) -> None:
        """Update the number of threads of all workers.

        Raises
        ------
        MachineError
            If a local cluster has had no worker for too long.
        """
        if threads:
            self._seen = time.monotonic()
        elif self._is_local and time.monotonic() - self._seen > WITHOUT_WORKERS_S:
            raise MachineError(
                expected("Dask workers", "on this machine", "a live worker",
                         f"none for {WITHOUT_WORKERS_S:.0f} s", "The system kills processes that "
                         "take too much memory: use fewer --workers. Then run the same command: "
                         "finished runs are kept.")
            )  # fmt: skip


@contextmanager
def scheduler_watched(client: Client) -> Iterator[None]:
    """Turn Dask's exceptions for a lost scheduler into one error.

    Raises
    ------
    MachineError
    """
    address = client.scheduler.address if client.scheduler else "?"
    try:
        yield
    except (OSError, CancelledError) as error:
        raise MachineError(
            expected("Dask scheduler", address, "a stable connection", "lost connection, "
                     f"{type(error).__name__}: {error}".partition("\n")[0],
                     "Start it again, then run the same command: finished runs are kept.")
        ) from error  # fmt: skip
