"""Tell faults of the machine or of the set-up from faults of a run.

A fault of a run is recorded with that run, and the other runs go on. A fault of the machine would
fail all later runs: it stops the tokenization with one :class:`MachineError`. No run is recorded as
failed, and the same command finishes the store later.

The decision depends on the exception (the tables below) and on the action (:data:`Place`).
Exceptions are recognised by name and text, without importing their packages.
"""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from fmritok.errors import FmritokError, MachineError, NoSpaceError, RunError, expected

__all__ = ["Place", "is_out_of_memory", "stored", "told_apart"]

#: The action, with the errors that are the machine's in addition to those in the tables:
#: ``source``, reading a run's files: none; an unreadable file is the run's fault;
#: ``plan``, reading and writing the plan of the store: system errors;
#: ``work``, encoding with scratch files: system errors, unreadable templates;
#: ``setup``, building a tokenizer before any run is read: all;
#: ``store``, writing a run to the store: all.
Place = Literal["source", "plan", "work", "setup", "store"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Fault:
    """One kind of fault, as the parts of its message."""

    what: str
    needed: str
    next_step: str
    is_local: bool = False  # concerns the machine, not a folder
    kind: type[MachineError] = MachineError


_NO_SPACE = _Fault("Disk", "room", "Free some space, or move with --store or --scratch",
                   kind=NoSpaceError)  # fmt: skip
_MEMORY = _Fault("Memory", "enough", "Use fewer --workers, or a machine with more memory", True)
_GPU_MEMORY = _Fault("GPU memory", "enough", "Free the GPU (nvidia-smi shows who uses it), or "
                     "encode with --device cpu", True)  # fmt: skip
_GPU = _Fault("GPU", "a device and a driver that work", "Check it with nvidia-smi, or encode with "
              "--device cpu", True)  # fmt: skip
_LIMIT = _Fault("Limits", "open files and threads to spare", "Raise them (ulimit -n, ulimit -u), "
                "or use fewer --workers", True)  # fmt: skip
_ACCESS = _Fault("Access", "the right to read and write there", "Correct the rights or the "
                 "credentials, or choose another folder")  # fmt: skip
_NETWORK = _Fault("Network", "an answer", "Check the network and the service")
_FOLDER = _Fault("Folder", "one that can be written to", "Check that it exists and is mounted, or "
                 "choose another with --store or --scratch")  # fmt: skip
_SETUP = _Fault("Tokenizer", "to load", "Correct its options, weights or template")
_STORE = _Fault("Store", "to take a run", "Check the disk or the service below it")

_BY_ERRNO = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _LIMIT,
    errno.ENFILE: _LIMIT,
    errno.ENOTCONN: _NETWORK,  # "Transport endpoint is not connected": a dead mount
    errno.EHOSTDOWN: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
    errno.ENETDOWN: _NETWORK,
    errno.ENETUNREACH: _NETWORK,
}
_BY_NAME = {
    "MemoryError": _MEMORY,
    "OutOfMemoryError": _GPU_MEMORY,  # torch's, and those of other libraries
    "AcceleratorError": _GPU,
}
#: Patterns for RuntimeError, torch's most common exception; the first match counts.
_BY_TEXT = (
    (r"DefaultCPUAllocator|not enough memory: you tried to allocate|[Cc]annot allocate memory",
     _MEMORY),
    (r"out of memory|CU\w+_STATUS_ALLOC_FAILED", _GPU_MEMORY),
    (r"CUDA (unknown )?error|CUDA driver|CUDA initialization|No CUDA GPUs|NVIDIA driver|"
     r"CU(BLAS|DNN|SOLVER|SPARSE|FFT)_\w+|cuDNN|HIP error|NVML", _GPU),
    (r"can't start new thread", _LIMIT),
)  # fmt: skip
#: Client packages of object stores; their errors are no OSErrors.
_CLIENTS = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests",
            "urllib3"}  # fmt: skip
#: Errors of missing permissions.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
#: Errors of an object store that a retry would not change.
_FINAL = (FmritokError, PermissionError, FileNotFoundError, ValueError, TypeError)
#: Seconds before retries of an object store, beside the retries of its client.
_WAITS_S = (1.0, 5.0, 15.0)


@contextmanager
def told_apart(place: Place, where: object, run_id: str = "") -> Iterator[None]:
    """Raise faults of the machine as :class:`MachineError`; let other exceptions pass.

    Parameters
    ----------
    place : {"source", "plan", "work", "setup", "store"}
        The action.
    where : object
        The file, folder, URL or tokenizer concerned.
    run_id : str
        The current run; may be empty.

    Raises
    ------
    MachineError
    """
    try:
        yield
    except MachineError:
        raise
    except Exception as error:
        fault = _machine_error(error, place, where, run_id)
        if fault is None:
            raise
        raise fault from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory of the machine or GPU ran out."""
    return _machine_wide(error) in (_MEMORY, _GPU_MEMORY)


def stored(write: Callable[[], Result], url: str, run_id: str) -> Result:
    """Write to a store, with retries on an object store.

    Parameters
    ----------
    write : callable
        Idempotent function.
    url : str
        URL of the store.
    run_id : str

    Raises
    ------
    MachineError
        For any exception of ``write``.
    """
    with told_apart("store", url, run_id):
        for wait in _WAITS_S if "://" in url else ():
            try:
                return write()
            except _FINAL:
                raise
            except Exception:
                time.sleep(wait)
        return write()


def _machine_error(
    error: Exception, place: Place, where: object, run_id: str
) -> MachineError | None:
    """Return the error that stops the tokenization; None if the run is at fault."""
    chain = _causes(error)
    fault = next((found for found in map(_machine_wide, chain) if found), None)
    own_words = isinstance(error, FmritokError)
    if fault is None and place in ("setup", "store") and own_words:
        return _as_machine_error(error)
    if fault is None and place == "work" and own_words:
        # An atlas or template that cannot be read, in contrast to one that does not fit the run.
        is_set_up = len(chain) > 1 and not isinstance(error, RunError)
        return _as_machine_error(error) if is_set_up else None
    if fault is None and place != "source" and not own_words:
        fault = _by_place(error, place)
    if fault is None:
        return None
    if fault.is_local:
        where = f"of {socket.gethostname()}" + (f", with {where}" if place == "setup" else "")
    text = str(error).strip().partition("\n")[0]  # torch adds paragraphs of advice
    kind = type(error).__name__
    got = text if text and isinstance(error, OSError) else f"{kind}: {text}".rstrip(": ")
    return fault.kind(
        expected(fault.what, where, fault.needed + (f" for run {run_id}" if run_id else ""),
                 got.rstrip("."),
                 f"{fault.next_step}; then run the same command: finished runs are kept.")
    )  # fmt: skip


def _as_machine_error(error: Exception) -> MachineError:
    found = MachineError(str(error))
    found.exit_status = getattr(error, "exit_status", 1)
    return found


def _machine_wide(error: BaseException) -> _Fault | None:
    """Return the fault of an exception that is the machine's in any place."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, RuntimeError):
        for pattern, fault in _BY_TEXT:
            if re.search(pattern, str(error)):
                return fault
    for name, fault in _BY_NAME.items():
        if name in names:
            return None if _is_beyond_the_machine(error) else fault
    if type(error).__module__.partition(".")[0] in _CLIENTS:
        return _NETWORK
    return _BY_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None


def _by_place(error: Exception, place: Place) -> _Fault | None:
    if isinstance(error, OSError) and (
        isinstance(error, PermissionError) or error.errno in _REFUSED
    ):
        return _ACCESS
    if place == "setup":
        return _SETUP
    if place == "store":
        return _STORE
    return _FOLDER if isinstance(error, OSError) else None


def _is_beyond_the_machine(error: BaseException) -> bool:
    """Tell whether numpy was asked for more than all memory: a damaged header or a huge run."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    if shape is None or dtype is None:
        return False
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return bool(math.prod(shape) * dtype.itemsize > memory)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and its chain of causes."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__
    return chain
