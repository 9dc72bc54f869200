"""Members of zip files, addressed by paths as if a zip file were a folder."""

from __future__ import annotations

import errno
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fmritok.regular import open_regular

__all__ = ["ZipError", "find_member", "open_member", "open_zip", "split_zip"]

#: Exceptions of zipfile for unreadable members: encrypted ones (RuntimeError), unknown compression
#: (NotImplementedError), impossible sizes and offsets.
_ZIP_DAMAGE = (
    RuntimeError, ValueError, OverflowError, EOFError, zlib.error, lzma.LZMAError, struct.error,
    zipfile.BadZipFile, zipfile.LargeZipFile,
)  # fmt: skip


def split_zip(path: Path) -> tuple[Path, str]:
    """Split a path into a zip file and a member, as if the zip file were a folder.

    Returns
    -------
    path : Path
        The file on disk.
    member : str
        Name within the zip file; empty for an ordinary path.
    """
    if not path.exists():
        for parent in path.parents:
            if parent.suffix == ".zip" and parent.is_file():
                return parent, path.relative_to(parent).as_posix()
    return path, ""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file; only its index is read.

    Raises
    ------
    ZipError
        If it is damaged.
    OSError
        If it is no regular file.
    """
    with open_regular(path) as file:
        with _zip_damage(path):
            archive = zipfile.ZipFile(file)
        with archive:
            yield archive


class ZipError(OSError):
    """An unreadable zip file or member. The text gives the reason."""

    def __init__(self, path: Path, error: Exception) -> None:
        text = f"{str(error) or type(error).__name__} ({path.name})"
        super().__init__(text)
        self.filename, self.strerror = str(path), text


class _Member(io.RawIOBase):
    """A member of a zip file. Any damage raises :class:`ZipError`."""

    def __init__(self, member: IO[bytes], path: Path) -> None:
        self._member, self._path = member, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _zip_damage(self._path):
            data = self._member.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _zip_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _ZIP_DAMAGE as error:
        raise ZipError(path, error) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # an impossible offset
            raise
        raise ZipError(path, error) from error


@contextmanager
def open_member(archive: zipfile.ZipFile, path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a member of an open zip file; ``path`` names it in errors.

    Raises
    ------
    FileNotFoundError
        If there is no such member.
    ZipError
        If it is damaged, encrypted, or compressed in an unknown way.
    """
    info = find_member(archive, path, member)
    with _zip_damage(path):
        found = archive.open(info)
    with found:
        yield io.BufferedReader(_Member(found, path))


def find_member(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    """Return the entry of a member; ``FileNotFoundError`` if there is none."""
    try:
        return archive.getinfo(member)
    except KeyError as error:
        raise FileNotFoundError(2, "no such member of the zip file", str(path)) from error
