"""Faults of the machine, each as one error with its next step: disks, memory, lost processes."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from fmritok.errors import FmritokError, expected
from fmritok.trainer.errors import TrainingError

__all__ = ["is_out_of_memory", "losing_others", "reason", "within_memory", "write_whole", "writing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)

#: torch has no exception of its own for memory that the CPU lacks, nor for that of cuBLAS.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|ALLOC_FAILED", re.IGNORECASE
)
#: What gloo and NCCL say, if they say it as a RuntimeError, when another process is gone.
_LOST = re.compile(
    r"gloo.*(closed by peer|reset by peer|broken pipe|timed out|refused)|"
    r"(closed by peer|reset by peer).*|NCCL (error|communicator)", re.IGNORECASE | re.DOTALL,
)  # fmt: skip


@contextmanager
def writing(
    what: str, path: Path, *, then: str = "", kind: type[FmritokError] = TrainingError
) -> Iterator[None]:
    """Turn a disk's refusal to be written into one error.

    Parameters
    ----------
    what : str
        What is written, for the message.
    path : Path
    then : str
        Second part of the next step; the first one follows from the fault.
    kind : type
        Of the error that is raised.

    Raises
    ------
    FmritokError
        Of that kind, naming the path: no space, over quota, read-only, not permitted, vanished.
    """
    try:
        yield
    except FmritokError:
        raise
    except (OSError, SafetensorError) as error:
        got, number = reason(error), _errno(error)
        if number in _FULL:
            step = "Free space there, or raise the quota."
        elif number in _REFUSED:
            step = "Make it writable."
        elif number in _GONE:
            step = "Bring the folder or its disk back."
        else:
            step = "Check that disk."
        message = expected(what, path, "a disk that takes what is written", got, step)
        raise kind(f"{message} {then}".rstrip()) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file atomically: if the disk is full, the file stays as it was."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def within_memory(where: object, next_step: str) -> Iterator[None]:
    """Turn memory that does not suffice, of the GPU or of the machine, into one error.

    Parameters
    ----------
    where : object
        Whose memory.
    next_step : str

    Raises
    ------
    TrainingError
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, FmritokError) or not is_out_of_memory(error):
            raise
        raise TrainingError(
            expected("Memory of", where, "enough of it", reason(error), next_step)
        ) from error


@contextmanager
def losing_others(where: object, size: int) -> Iterator[None]:
    """Turn the loss of another process, out of ``size`` that train together, into one error.

    Raises
    ------
    TrainingError
    """
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, dist.DistError)
        if size == 1 or isinstance(error, FmritokError) or not (known or _LOST.search(str(error))):
            raise
        raise TrainingError(
            expected("Processes of", where, f"{size} that train together", reason(error),
                     "Another process ended: its error says why, or torchrun which signal.")
        ) from error  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether it is memory, of any kind, that was missing."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def reason(error: BaseException) -> str:
    """Return what an error says in one line; torch says more, and where in its code it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return (text if len(text) < 300 else f"{text[:297]}...").rstrip(".")


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))  # as Rust writes it
    return int(found.group(1)) if found else None
