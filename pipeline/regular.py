"""Open files that other people made: regular ones alone, and no more of them than expected.

A FIFO or a device in the place of a file would be waited for, or read, for ever.
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

__all__ = ["NotAFileError", "TooLargeError", "memory_left", "open_regular", "read_regular"]

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO that takes the file's place after the look at it
    | getattr(os, "O_BINARY", 0)
)
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


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never wait.

    Raises
    ------
    NotAFileError
        If it is a FIFO, a socket or a device.
    OSError
        If it is a folder, not there or not readable.
    """
    _refuse_others(path, os.stat(path).st_mode)  # opening a device may already do something
    descriptor = os.open(path, _FLAGS)
    try:
        _refuse_others(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")  # a folder: IsADirectoryError
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], at_most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises
    ------
    NotAFileError
    TooLargeError
        If it has more than ``at_most`` bytes; none of them are read then.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > at_most:
            raise TooLargeError(path, size, at_most)
        return file.read(size)


def memory_left() -> int:
    """Return how many bytes of memory a process may take and leave as many to others."""
    import psutil

    return int(psutil.virtual_memory().available) // 2


def _refuse_others(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotAFileError(path, mode)
