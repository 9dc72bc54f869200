"""A lock file: it says who holds it, ends with its process, and is removed at the end."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from fmritok.pipeline.store.locks.holder import Holder

__all__ = ["HeldError", "LockFile"]

#: How file systems without locks answer; filelock itself knows ENOSYS.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class HeldError(Exception):
    """Another process holds a lock file; the text says which."""


class LockFile:
    """A lock that the system gives back when the process ends, even if it is killed.

    A kill leaves the file behind; the next holder takes it over and removes it. On a file system
    without locks, the file itself is the lock.

    Parameters
    ----------
    path : str or os.PathLike
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Others may have to take over what a killed process left.
        self._lock: BaseFileLock = FileLock(self.path, mode=0o666)

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
            self._acquire(wait_s)
        except Timeout as error:
            raise HeldError(self._holder()) from error
        if self._is_locked_by_the_system:
            with suppress(OSError):  # a full disk: the lock holds all the same
                self.path.write_bytes(Holder.this_process().to_json())

    def release(self) -> None:
        """Give the lock back."""
        if self._is_locked_by_the_system:
            # Removed while it is held: a process that waits for it notices that its file is gone.
            with suppress(OSError):
                self.path.unlink()
        self._lock.release()

    @property
    def _is_locked_by_the_system(self) -> bool:
        """Whether the lock is not the mere existence of its file, which filelock looks after."""
        return not isinstance(self._lock, SoftFileLock)

    def _acquire(self, wait_s: float) -> None:
        try:
            self._lock.acquire(timeout=wait_s)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            with suppress(OSError):
                if not self.path.stat().st_size:  # made by the attempt above; a soft lock has text
                    self.path.unlink()
            self._lock = SoftFileLock(self.path, mode=0o666)
            self._lock.acquire(timeout=wait_s)

    def _holder(self) -> str:
        try:
            return str(Holder(**json.loads(self.path.read_bytes())))
        except (OSError, ValueError, TypeError):
            return f"another process at work (or killed; then remove {self.path})"
