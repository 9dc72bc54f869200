"""One writer of a token group, or of a store's own tables, at a time.

On a local disk: a lock file beside the store's real path. The system releases it when the process
ends. On an object store: a lease (:mod:`fmritok.pipeline.store.lease`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmritok.pipeline.errors import StoreError, expected
from fmritok.pipeline.store.lease import Lease
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.lock_file import HeldError, LockFile

__all__ = ["check_held", "one_writer"]

_leases: dict[tuple[str, str], Lease] = {}


@contextmanager
def one_writer(location: Location, group: str = "", *, wait_s: float = 0) -> Iterator[None]:
    """Hold a token group, or the store's own tables, for this process.

    Parameters
    ----------
    location : Location
    group : str
        Token group; empty for the root: its tables and its list of groups.
    wait_s : float
        How long to wait for another process, s.

    Raises
    ------
    StoreError
        If another process holds it; the error names that process. Or if nothing can be written.
    """
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


def check_held(location: Location, group: str) -> None:
    """Make sure that a lease of this process has not passed to another one.

    Raises
    ------
    StoreError
        If it has: this process was asleep for longer than a lease lasts.
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
