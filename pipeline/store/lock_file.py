"""A lock file: it says who holds it, ends with its process, and is removed at the end."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fmritok.pipeline.store.holder import Holder

__all__ = ["HeldError", "LockFile"]


class HeldError(Exception):
    """Another process holds a lock file; the text says which."""


class LockFile:
    """A lock that the system gives back when the process ends, even if it is killed.

    A kill leaves the file behind; the next holder takes it over and removes it. On a file system
    without locks, the file itself is the lock, and one whose process has ended here is removed.

    Parameters
    ----------
    path : str or os.PathLike
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path)

    def acquire(self, wait_s: float = 0) -> None:
        """Take the lock.

        Raises
        ------
        HeldError
            If another process, or another lock of this one, has it for longer than the wait.
        OSError
            If the file cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=wait_s)
        except Timeout as error:
            holder = self._holder()
            if holder is None or not holder.is_gone:
                raise HeldError(str(holder or "another process at work")) from error
            self.path.unlink(missing_ok=True)
            self.acquire(wait_s)
            return
        with suppress(OSError):  # a full disk: the lock holds all the same
            self.path.write_bytes(Holder.this_process().to_json())

    def release(self) -> None:
        """Give the lock back."""
        # Removed while it is held: a process that waits for it notices that its file is gone.
        with suppress(OSError):
            self.path.unlink()
        self._lock.release()

    def _holder(self) -> Holder | None:
        try:
            return Holder(**json.loads(self.path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
