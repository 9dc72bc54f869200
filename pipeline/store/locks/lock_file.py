"""Lock files: they name their holder, end with its process, and are removed on release."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from fmritok.pipeline.store.locks.holder import Holder

__all__ = ["HeldError", "LockFile"]

#: Errors of file systems without locks. filelock handles ENOSYS itself.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class HeldError(Exception):
    """Another process holds a lock file. The text names the process."""


class LockFile:
    """A lock that the system releases when the process ends, even if it is killed.

    A killed process leaves the file behind. The next holder reuses and removes it. On a file system
    without locks, the existence of the file is the lock.

    Parameters
    ----------
    path : str or os.PathLike
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Other users may have to reuse the file of a killed process.
        self._lock: BaseFileLock = FileLock(self.path, mode=0o666)

    def acquire(self, wait_s: float = 0) -> None:
        """Take the lock.

        Raises
        ------
        HeldError
            If another process, or another lock of this one, holds it for longer than the wait.
        OSError
            If the file cannot be created.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._acquire(wait_s)
        except Timeout as error:
            raise HeldError(self._holder()) from error
        if self._is_locked_by_the_system:
            with suppress(OSError):  # a full disk: the lock is valid without its text
                self.path.write_bytes(Holder.this_process().to_json())

    def release(self) -> None:
        """Release the lock."""
        if self._is_locked_by_the_system:
            # Remove the file before the release: a waiting process notices that its file is gone.
            with suppress(OSError):
                self.path.unlink()
        self._lock.release()

    @property
    def _is_locked_by_the_system(self) -> bool:
        """Whether the system holds the lock, instead of the mere existence of the file."""
        return not isinstance(self._lock, SoftFileLock)

    def _acquire(self, wait_s: float) -> None:
        try:
            self._lock.acquire(timeout=wait_s)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            with suppress(OSError):
                if not self.path.stat().st_size:  # from the attempt above; soft locks have text
                    self.path.unlink()
            self._lock = SoftFileLock(self.path, mode=0o666)
            self._lock.acquire(timeout=wait_s)

    def _holder(self) -> str:
        try:
            return str(Holder(**json.loads(self.path.read_bytes())))
        except (OSError, ValueError, TypeError):
            return f"another process at work (or killed; then remove {self.path})"
