"""Errors for faults of the machine: disks, memory, lost processes."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError

from fmritok import faults
from fmritok.errors import FmritokError, expected
from fmritok.trainer.errors import TrainingError

__all__ = ["is_out_of_memory", "losing_others", "reason", "within_memory", "write_whole", "writing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)

#: Messages of gloo and NCCL about a lost process, where they raise a RuntimeError.
_LOST = re.compile(
    r"gloo.*(closed by peer|reset by peer|broken pipe|timed out|refused)|"
    r"(closed by peer|reset by peer).*|NCCL (error|communicator)", re.IGNORECASE | re.DOTALL,
)  # fmt: skip


@contextmanager
def writing(
    what: str, path: Path, *, then: str = "", kind: type[FmritokError] = TrainingError
) -> Iterator[None]:
    """Raise one error if the disk cannot be written.

    Parameters
    ----------
    what : str
        File or folder, for the message.
    path : Path
    then : str
        Last sentence of the error, after the one about the disk.
    kind : type
        Class of the error.

    Raises
    ------
    FmritokError
        If the disk is full, over quota, read-only, not permitted or gone.
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
        message = expected(what, path, "a writable disk", got, step)
        raise kind(f"{message} {then}".rstrip()) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file atomically: on errors, an existing file is unchanged."""
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
    """Raise one error if the memory of the GPU or of the machine runs out.

    Parameters
    ----------
    where : object
        Device or step, for the message.
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
            expected("Memory of", where, "enough memory", reason(error), next_step)
        ) from error


@contextmanager
def losing_others(where: object, size: int) -> Iterator[None]:
    """Raise one error if another of the ``size`` processes is lost.

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
                     "Another process ended: see its error, or the signal that torchrun names.")
        ) from error  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory of the GPU or of the machine ran out."""
    # A batch larger than all memory is numpy's MemoryError: not a fault of the machine to others.
    return isinstance(error, MemoryError) or faults.is_out_of_memory(error)


def reason(error: BaseException) -> str:
    """Return the first line of an error. Further lines of torch are its C++ stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return (text if len(text) < 300 else f"{text[:297]}...").rstrip(".")


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))  # as Rust writes it
    return int(found.group(1)) if found else None
