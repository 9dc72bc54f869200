"""Open files that other people made: regular ones alone, and no more of them than expected.

A FIFO or a device in the place of a file would be waited for, or read, for ever.
"""

from __future__ import annotations

import io
import os
import stat

__all__ = [
    "NotAFileError", "TooLargeError", "check_regular", "machine_memory", "memory_left",
    "open_regular", "read_start",
]  # fmt: skip

#: A FIFO that takes a file's place after the look at it is not waited for.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """Something else lies where a file should; the text says what and where."""

    def __init__(self, path: str | os.PathLike[str], mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        super().__init__(f"{kind}, not a file")
        self.filename, self.strerror = os.fspath(path), f"{kind}, not a file"


class TooLargeError(OSError):
    """A file is larger than what it should hold; the text says by how much."""

    def __init__(self, path: str | os.PathLike[str], size: int, at_most: int) -> None:
        what = f"{size:,} bytes, where at most {at_most:,} can be meant"
        super().__init__(what)
        self.filename, self.strerror = os.fspath(path), what


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading; never wait.

    Raises
    ------
    NotAFileError
        If it is a FIFO, a socket or a device.
    OSError
        If it is a folder, not there or not readable.
    """
    _refuse_others(path, os.stat(path).st_mode)  # opening a device may already do something
    file = open(path, "rb", opener=_open)
    try:
        _refuse_others(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def read_start(path: str | os.PathLike[str], n_bytes: int) -> bytes:
    """Read the first bytes of a regular file, or a link to one, at less cost than to open it.

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
    """Refuse what only looks like a file, for libraries that open files themselves.

    Raises
    ------
    NotAFileError
    OSError
        If it is not there.
    """
    _refuse_others(path, os.stat(path).st_mode)


def memory_left() -> int:
    """Return how many bytes of memory a process may take and leave as many to others."""
    import psutil

    return int(psutil.virtual_memory().available) // 2


def machine_memory() -> int:
    """Return how many bytes of memory the machine has."""
    import psutil

    return int(psutil.virtual_memory().total)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_WAIT)


def _refuse_others(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotAFileError(path, mode)
