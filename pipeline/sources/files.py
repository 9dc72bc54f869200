"""Open files as streams of bytes: plain, compressed, or members of zip files."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fmritok.pipeline.errors import RunError, expected

__all__ = [
    "HashedFile", "damage_named", "file_sha256", "file_stamp", "open_binary", "read_fully",
    "split_zip",
]  # fmt: skip

#: Exceptions that mean a damaged file; zipfile raises NotImplementedError for unknown compression.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError)


def split_zip(path: Path) -> tuple[Path, str]:
    """Split a path that passes through a zip file as if that were a folder.

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
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, or a member of a zip file, as it is stored.

    Raises
    ------
    FileNotFoundError
        If there is no such file or member.
    """
    outer, member = split_zip(path)
    if not member:
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(outer) as archive:
        try:
            found = archive.open(member)
        except KeyError as error:
            raise FileNotFoundError(2, "no such member of the zip file", str(path)) from error
        with found:
            yield found


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's bytes and its time of change, ns since 1970.

    Of a member of a zip file: its unpacked bytes, and the time of the zip file.

    Raises
    ------
    FileNotFoundError
        If there is no such file or member.
    """
    outer, member = split_zip(path)
    status = outer.stat()
    if not member:
        return status.st_size, status.st_mtime_ns
    with zipfile.ZipFile(outer) as archive:
        try:
            return archive.getinfo(member).file_size, status.st_mtime_ns
        except KeyError as error:
            raise FileNotFoundError(2, "no such member of the zip file", str(path)) from error


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes, or of a member of a zip file."""
    with open_binary(path) as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()  # type: ignore[arg-type]


class HashedFile:
    """A file that is read forward, decompressed if its name ends in ``.gz``, and hashed as stored.

    Attributes
    ----------
    sha256 : str
        Hex digest of the stored bytes; empty until :meth:`finish`.
    """

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        self._hashing = _Hashing(raw)
        self.sha256 = ""
        buffered = io.BufferedReader(self._hashing, 1 << 20)
        self._file: Any = buffered
        if path.suffix == ".gz":
            from isal import igzip

            self._file = igzip.IGzipFile(fileobj=buffered, mode="rb")

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; fewer only at the end of the file."""
        return read_fully(self._file, size)

    def finish(self) -> None:
        """Read to the end, where gzip keeps its checksum, and take the digest."""
        while self._file.read(1 << 20):
            pass
        self.sha256 = self._hashing.digest.hexdigest()


class _Hashing(io.RawIOBase):
    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def read_fully(file: Any, size: int) -> bytes:
    """Read ``size`` bytes from a stream that may give less at a time; fewer only at its end."""
    parts, left = [], size
    while left:
        part = file.read(left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def damage_named(path: Path, wanted: str, progress: Any = None) -> Iterator[None]:
    """Turn what a damaged file raises into one error about the run.

    Parameters
    ----------
    path : Path
    wanted : str
        What was expected of the file.
    progress : callable, optional
        Returns what was read until then, in words.
    """
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        until = f"{progress()} and then " if progress else ""
        raise RunError(
            expected("Run file", path, wanted, f"{until}{type(error).__name__}: {error}",
                     "Copy or download it again, then rerun the same command.")
        ) from error  # fmt: skip
