"""Open untrusted files: regular files only, with a limit on their size.

Opening a FIFO or reading a device could block forever.
"""

from __future__ import annotations

import io
import os
import stat

__all__ = [
    "NotAFileError", "TooLargeError", "check_regular", "machine_memory", "memory_left",
    "open_regular", "read_start",
]  # fmt: skip

#: No blocking if a FIFO replaces the file after the check.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """A path is no regular file; the text says what it is."""

    def __init__(self, path: str | os.PathLike[str], mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        super().__init__(f"{kind}, not a file")
        self.filename, self.strerror = os.fspath(path), f"{kind}, not a file"


class TooLargeError(OSError):
    """A file is larger than allowed; the text gives both sizes."""

    def __init__(self, path: str | os.PathLike[str], size: int, at_most: int) -> None:
        what = f"{size:,} bytes, but at most {at_most:,} are allowed"
        super().__init__(what)
        self.filename, self.strerror = os.fspath(path), what


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file or a link to one for reading, without blocking.

    Raises
    ------
    NotAFileError
        If it is a FIFO, a socket or a device.
    OSError
        If it is a folder, missing or not readable.
    """
    _refuse_others(path, os.stat(path).st_mode)  # opening a device may have side effects
    file = open(path, "rb", opener=_open)
    try:
        _refuse_others(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def read_start(path: str | os.PathLike[str], n_bytes: int) -> bytes:
    """Read the first bytes of a regular file or a link to one, faster than :func:`open_regular`.

    Raises
    ------
    NotAFileError, OSError
        As :func:`open_regular`.
    """
    path = os.fspath(path)
    _refuse_others(path, os.stat(path).st_mode)
    number = _open(path, _READ)
    try:
        _refuse_others(path, os.fstat(number).st_mode)
        data = os.read(number, n_bytes)
        while len(data) < n_bytes and (more := os.read(number, n_bytes - len(data))):
            data += more
        return data
    finally:
        os.close(number)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse paths that are no regular files, for libraries that open files themselves.

    Raises
    ------
    NotAFileError
    OSError
        If it is missing.
    """
    _refuse_others(path, os.stat(path).st_mode)


def memory_left() -> int:
    """Return half of the available memory, in bytes."""
    import psutil

    return int(psutil.virtual_memory().available) // 2


def machine_memory() -> int:
    """Return the memory of the machine, in bytes."""
    import psutil

    return int(psutil.virtual_memory().total)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_WAIT)


def _refuse_others(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotAFileError(path, mode)
