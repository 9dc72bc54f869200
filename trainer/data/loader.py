"""Make loaders that report each fault as one error: killed workers, memory, shared memory."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from fmritok.errors import FmritokError, expected
from fmritok.pipeline.store.location import Location
from fmritok.trainer.data.workers import NOT_HANDED_OVER, worker_options
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.faults import is_out_of_memory, reason

__all__ = ["batch_loader"]

_NO_WORKERS = "or --loader-workers 0, which reads in the trainer itself"
_SHARED = re.compile(r"shared memory|/torch_\d|\(shm\)|unable to (mmap|open|resize)", re.IGNORECASE)
_TOO_MANY_FILES = re.compile(r"too many open files|ancdata", re.IGNORECASE)
_SHARED_STEP = (
    "Make /dev/shm larger (docker run --shm-size=8g; in Kubernetes an emptyDir of medium Memory), "
    f"or use fewer --loader-workers, {_NO_WORKERS}."
)
_FILES_STEP = (
    f"Raise the limit of open files (ulimit -n), or use fewer --loader-workers, {_NO_WORKERS}."
)
_MEMORY_STEP = (
    f"Use fewer --loader-workers, {_NO_WORKERS}; in a new training, a smaller data.batch_size or "
    "data.window."
)


def batch_loader(
    dataset: Dataset[Any],
    locations: Sequence[Location],
    batches: Iterable[list[Any]],
    *,
    workers: int,
    pin_memory: bool,
) -> Iterable[Any]:
    """Make a loader from a dataset that reads whole batches with ``__getitems__``.

    The iterator raises a TrainingError if a worker cannot start or dies, or if memory, shared
    memory or open files run out.

    Raises
    ------
    ConfigError
        If workers are wanted for a store that lives in this process's memory.
    """
    private = [location for location in locations if not location.is_shared]
    if workers and private:
        raise ConfigError(
            expected("Option", "--loader-workers",
                     f"0, because {private[0]} belongs to this process", workers,
                     "Omit --loader-workers.")
        )  # fmt: skip
    return _Loader(
        _Reporting(dataset),
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # leave the global generator alone
        **(worker_options("fmritok.trainer.data.reading") if workers else {}),
    )


@dataclass(frozen=True)
class _Failed:
    """An error sent by a worker in place of a batch; torch would add a traceback to it."""

    error: FmritokError


class _Reporting(Dataset[Any]):
    """A dataset that returns known errors from workers unchanged."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, requests: list[Any]) -> Any:
        in_worker = get_worker_info() is not None
        try:
            batch = self.dataset.__getitems__(requests)
            if in_worker:
                _share(batch)
        except Exception as error:
            known = _known(error)
            if known is None:
                raise
            if in_worker:
                return _Failed(known)
            raise known from (None if known is error else error)
        return batch


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Any:
        return _Batches(self)

    def start(self) -> Any:
        """Start the workers, or reuse running ones."""
        return super().__iter__()


class _Batches(Iterator[Any]):
    """One pass over a loader."""

    def __init__(self, loader: _Loader) -> None:
        self._n_workers = loader.num_workers
        try:
            self._batches = loader.start()
        except (OSError, EOFError, RuntimeError) as error:
            if isinstance(error, FmritokError) or not self._n_workers:
                raise
            step = _FILES_STEP if _is_too_many_files(error) else (
                "Raise the limit of processes (ulimit -u) or of memory, or use fewer "
                f"--loader-workers, {_NO_WORKERS}."
            )  # fmt: skip
            raise _error(f"{self._n_workers} that start", reason(error), step) from error

    @property
    def workers(self) -> list[Any]:
        """The loader workers."""
        return getattr(self._batches, "_workers", [])

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except (OSError, EOFError, RuntimeError) as error:
            if isinstance(error, FmritokError) or not self._n_workers:
                raise
            known = self._ended(error) or _known(error)
            if known is None:
                raise
            raise known from error
        if isinstance(batch, _Failed):
            self._batches = iter(())  # end the workers now: the traceback would keep them
            raise batch.error
        return batch

    def _ended(self, error: BaseException) -> TrainingError | None:
        """Return an error that names a dead worker and the cause; None if all live."""
        broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
        if broken:  # a dying worker is noticed a moment later
            wait([worker.sentinel for worker in self.workers], timeout=2)
        ended = [worker for worker in self.workers if not worker.is_alive()]
        if not ended:
            if broken:
                return _error("batches from them", reason(error), f"Try again, {_NO_WORKERS}.")
            return None
        pid, code = ended[0].pid, ended[0].exitcode
        step = "If it happens again, use --loader-workers 0: the error of reading is then shown."
        if code == NOT_HANDED_OVER:
            got, step = f"process {pid}, which could not hand a batch over", _SHARED_STEP
        elif code is not None and code < 0:
            got = f"process {pid}, which was ended by {signal.Signals(-code).name}"
            if code == -signal.SIGBUS:
                got, step = f"{got} (shared memory was too small)", _SHARED_STEP
            elif code == -signal.SIGKILL:
                got = f"{got} (most likely by the system, because memory ran out)"
                step = _MEMORY_STEP
        else:
            got = f"process {pid}, which ended with exit status {code}"
        return _error("all of them to keep running", got, step)


def _known(error: BaseException) -> FmritokError | None:
    """Return the error to show to users; None for a bug."""
    if isinstance(error, FmritokError):
        return error
    text = str(error)
    if _is_too_many_files(error):
        return _error("enough open files", _cause(text), _FILES_STEP)
    if isinstance(error, RuntimeError) and _SHARED.search(text):
        return _error("enough shared memory (/dev/shm) for the batches", _cause(text), _SHARED_STEP)
    if is_out_of_memory(error):
        got = reason(error) if "Traceback" not in text else _cause(text)
        return _error("enough memory for the batches", got, _MEMORY_STEP)
    return None


def _is_too_many_files(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return True
    return isinstance(error, RuntimeError) and bool(_TOO_MANY_FILES.search(str(error)))


def _cause(text: str) -> str:
    """Return the line with the cause: the last line of a traceback in torch's message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1 if any("Traceback" in line for line in lines) else 0]
    return line.split("You can free space")[0].rstrip(". ")


def _error(wanted: str, got: str, next_step: str) -> TrainingError:
    return TrainingError(expected("Loader workers", "(--loader-workers)", wanted, got, next_step))


def _share(batch: Any) -> None:
    """Move tensors to shared memory here: the queue's thread would lose errors."""
    if isinstance(batch, Tensor):
        batch.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(batch, Mapping):
        for part in batch.values():
            _share(part)
    elif isinstance(batch, tuple):
        for part in batch:
            _share(part)


def _as_it_is(batch: Any) -> Any:
    return batch
