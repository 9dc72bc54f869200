"""Faults of Dask's scheduler and workers: one error, or the fault of the run that they were at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fmritok.errors import MachineError, expected
from fmritok.pipeline.store.records import RunRecord
from fmritok.pipeline.tokenization.task import Job, RunTask, fail_run

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LostRuns", "Outcome", "Patience", "scheduler_watched", "stopping_error"]

#: How long a local cluster may be without any worker, s; Dask starts dead ones again.
WITHOUT_WORKERS_S = 60.0

#: Runs in a row that lose their worker before the machine is blamed. (A run that waits behind one
#: that kills its worker is lost with it.)
_IN_A_ROW = 4

Outcome = tuple[RunTask, dict[str, RunRecord]]


class LostRuns:
    """Runs whose workers died under them, each as often as Dask tries.

    Where a worker survives another run afterwards, workers are able to work, and such a run is
    recorded as failed. Until then nothing is known, and nothing is recorded.

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
        """Take up a run whose workers died."""
        self._waiting.append((task, error))
        self._in_a_row += 1

    def add_survived(self) -> None:
        """Take note of a run that a worker survived."""
        self._in_a_row, self._any_survived = 0, True

    def machine_error(self, *, at_end: bool = False) -> MachineError | None:
        """Return the error that stops the tokenization, if the machine is at fault.

        Parameters
        ----------
        at_end : bool
            Whether no other run is at work or waits.
        """
        if self._in_a_row < _IN_A_ROW and not (at_end and self._waiting and not self._any_survived):
            return None
        runs = ", ".join(task.run_id for task, _ in self._waiting[-_IN_A_ROW:])
        error = self._waiting[-1][1]
        return MachineError(
            expected("Dask workers", f"of runs {runs}", "to survive",
                     f"{type(error).__name__}: {error}",
                     "The system kills processes that take too much memory: give workers more, "
                     "use fewer --workers, or leave these runs out. Then run the same command: "
                     "finished runs are kept.")
        )  # fmt: skip

    def recorded(self, *, at_end: bool = False) -> list[Outcome]:
        """Record the runs that are known to be at fault, and forget them."""
        if self._in_a_row and not at_end:
            return []
        found = [(task, fail_run(task, self._job, _reason(task, e))) for task, e in self._waiting]
        self._waiting.clear()
        return found


def _reason(task: RunTask, error: BaseException) -> str:
    return expected("Worker", f"of run {task.run_id}", "to survive, as it did with other runs",
                    f"{type(error).__name__}: {error}",
                    "Give it more memory, or leave the run out.")  # fmt: skip


def stopping_error(task: RunTask, error: BaseException | None) -> MachineError:
    """Return the error that ends the tokenization, for what a task raised.

    A task records the faults of its run by itself: what it raises is the machine's fault.
    """
    if isinstance(error, MachineError):
        return error
    return MachineError(
        expected("Worker", f"of run {task.run_id}", "to run fmritok's tasks",
                 f"{type(error).__name__}: {error}", "Install the same version of fmritok on all "
                 "machines. Then run the same command: finished runs are kept.")
    )  # fmt: skip


class Patience:
    """Wait for workers of a cluster for ever, and for those of this machine for a while.

    Parameters
    ----------
    is_local : bool
        Whether the workers are this machine's, started by this call.
    """

    def __init__(self, *, is_local: bool) -> None:
        self._is_local, self._seen = is_local, time.monotonic()

    def check(self, threads: int) -> None:
        """Take note of how many threads the workers have.

        Raises
        ------
        MachineError
            If a local cluster has had none for too long.
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
    """Turn what Dask raises when the scheduler has gone into one error.

    Raises
    ------
    MachineError
    """
    address = client.scheduler.address if client.scheduler else "?"
    try:
        yield
    except (OSError, CancelledError) as error:
        raise MachineError(
            expected("Dask scheduler", address, "one that stays", "lost connection, "
                     f"{type(error).__name__}: {error}".partition("\n")[0],
                     "Start it again, then run the same command: finished runs are kept.")
        ) from error  # fmt: skip
