"""Exclusive write access to a token group, or to the root of a store.

On a local disk: a lock file beside the real path of the store. The system releases it when the
process ends. On an object store: a lease (:mod:`fmritok.pipeline.store.locks.lease`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.lease import Lease
from fmritok.pipeline.store.locks.lock_file import HeldError, LockFile

__all__ = ["MOMENT_S", "check_held", "is_held", "one_writer"]

#: How long to wait for a process that only tests whether a group is held, s.
MOMENT_S = 2.0
_leases: dict[tuple[str, str], Lease] = {}
_threads = threading.local()


@contextmanager
def one_writer(location: Location, group: str = "", *, wait_s: float = 0) -> Iterator[None]:
    """Hold a token group, or the root of the store, for this process.

    Parameters
    ----------
    location : Location
    group : str
        Token group. Empty: the root, with its tables and its list of groups. The root is reentrant
        within a thread.
    wait_s : float
        How long to wait for another process, s.

    Raises
    ------
    StoreError
        If another process holds it (the error names that process), or the lock cannot be written.
    """
    if not group and _root_of(location) in _held_roots():
        yield  # this thread holds the root already
        return
    with _one_writer(location, group, wait_s), ExitStack() as noted:
        if not group:
            _held_roots().add(_root_of(location))
            noted.callback(_held_roots().discard, _root_of(location))
        yield


def is_held(location: Location, group: str) -> bool:
    """Whether a process holds a token group.

    On a disk, this test takes the lock for a moment.
    """
    if not location.is_local:
        return Lease(location, group, what="").holder() is not None
    try:
        with _one_writer(location, group, 0):
            return False
    except StoreError:
        return True


@contextmanager
def _one_writer(location: Location, group: str, wait_s: float) -> Iterator[None]:
    what = f"Token group {group} of" if group else "Tables of"
    if location.is_local:
        path = Path(os.path.realpath(location.url))
        name = f".{path.name}.{group}.lock" if group else f".{path.name}.lock"
        with _hold_file(path.with_name(name), what=what, where=location, wait_s=wait_s):
            yield
        return
    lease = Lease(location, group, what=what)
    lease.acquire(wait_s)
    _leases[location.url, group] = lease
    try:
        yield
    finally:
        del _leases[location.url, group]
        lease.release()


def _root_of(location: Location) -> str:
    return os.path.realpath(location.url) if location.is_local else location.url


def _held_roots() -> set[str]:
    """Return the stores of which this thread holds the root."""
    if not hasattr(_threads, "roots"):
        _threads.roots = set()
    roots: set[str] = _threads.roots
    return roots


def check_held(location: Location, group: str) -> None:
    """Check that this process still holds its lease. Lock files need no check.

    Raises
    ------
    StoreError
        If the lease has expired, for example because this process was suspended.
    """
    lease = _leases.get((location.url, group))
    if lease is not None:
        lease.check()


@contextmanager
def _hold_file(path: Path, *, what: str, where: object, wait_s: float) -> Iterator[None]:
    lock = LockFile(path)
    try:
        lock.acquire(wait_s)
    except HeldError as error:
        raise StoreError(
            expected(what, where, "no other writer", error,
                     "Wait until it has finished, or stop it.")
        ) from error  # fmt: skip
    except OSError as error:
        raise StoreError(
            expected("Lock file", path, "a folder that can be written to",
                     error.strerror or error,
                     "Write to another place, or ask for the right to write there.")
        ) from error  # fmt: skip
    try:
        yield
    finally:
        lock.release()
