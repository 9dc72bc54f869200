"""Byte streams of files: plain, compressed, or members of zip files."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.zip_members import find_member, open_member, open_zip, split_zip
from fmritok.quantities import counted
from fmritok.regular import TooLargeError, machine_memory, open_regular

__all__ = [
    "HashedFile", "check_claim", "check_room", "damage_named", "file_sha256", "file_stamp",
    "open_binary", "read_fully", "read_small",
]  # fmt: skip

#: Exceptions that mean a damaged file.
_DAMAGE = (OSError, EOFError, zlib.error)
#: Largest compression ratio of deflate.
_MOST_DEFLATED = 1032
#: Bytes per read of a stream. Headers may claim more bytes than there are.
_PART = 1 << 24
#: Bytes that a file may have after its data.
_SMALL_REST = 1 << 26


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file, or a member of a zip file, without decompressing ``.gz``.

    Raises
    ------
    FileNotFoundError
        If there is no such file or member.
    OSError
        If it is a FIFO, a socket or a device. These are never opened.
    ZipError
        If the zip file is damaged, or the member encrypted or compressed in an unknown way.
    """
    outer, member = split_zip(path)
    if not member:
        with open_regular(path) as file:
            yield file
        return
    with open_zip(outer) as archive, open_member(archive, path, member) as found:
        yield found


def read_small(path: Path, at_most: int, archive: zipfile.ZipFile | None = None) -> bytes:
    """Return the bytes of a small file, or of a small member of a zip file.

    Parameters
    ----------
    path : Path
    at_most : int
    archive : zipfile.ZipFile, optional
        The zip file of the path, if it is open already.

    Raises
    ------
    OSError
        As :func:`open_binary`, or if the file is larger than ``at_most``.
    """
    member = path.relative_to(str(archive.filename)).as_posix() if archive else ""
    opened = open_member(archive, path, member) if archive else open_binary(path)
    with opened as file:
        data = read_fully(file, at_most + 1)
    if len(data) > at_most:
        raise TooLargeError(path, len(data), at_most)
    return data


def check_room(path: Path, n_bytes: int, what: str) -> None:
    """Refuse a file if its header claims more bytes than this machine's total memory.

    The total memory counts, not the free one: a temporary shortage is not the fault of the run.

    Raises
    ------
    RunError
    """
    if n_bytes > _SMALL_REST and n_bytes > (memory := machine_memory()):
        raise RunError(
            expected("File", path, f"{what} that fit the memory ({memory / 1e9:.1f} GB)",
                     f"{n_bytes / 1e9:,.1f} GB, as its header says",
                     "Copy the file again, or use a machine with more memory.")
        )  # fmt: skip


def check_claim(path: Path, n_bytes: int) -> None:
    """Refuse a file that is too small for half of the data that its header claims.

    Even the largest compression ratio is allowed for. A file truncated later is read up to that
    point; its error then names the frame.

    Raises
    ------
    RunError
    """
    stored, _ = file_stamp(path)
    most = stored * (_MOST_DEFLATED if path.suffix == ".gz" else 1)
    if n_bytes > 2 * most:
        raise RunError(
            expected("File", path, f"{counted(n_bytes, 'byte')}, as its header says",
                     counted(stored, "byte") + (" of gzip" if path.suffix == ".gz" else ""),
                     "Copy or download it again, then rerun the same command.")
        )  # fmt: skip


def file_stamp(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes, and its modification time, ns since 1970.

    For a member of a zip file: its decompressed size, and the time of the zip file.

    Raises
    ------
    FileNotFoundError
        If there is no such file or member.
    """
    outer, member = split_zip(path)
    status = outer.stat()
    if not member:
        return status.st_size, status.st_mtime_ns
    with open_zip(outer) as archive:
        return find_member(archive, path, member).file_size, status.st_mtime_ns


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, or of a member of a zip file, in hex."""
    with open_binary(path) as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()  # type: ignore[arg-type]


class HashedFile:
    """A file that is read forward and hashed. ``.gz`` is decompressed; the stored bytes are hashed.

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
        """Read to the end (gzip has its checksum there), and compute the digest.

        Raises
        ------
        EOFError
            If much more data follow than the header claims.
        """
        rest = 0
        while part := self._file.read(1 << 20):
            rest += len(part)
            if rest > _SMALL_REST:
                raise EOFError(f"more than {_SMALL_REST:,} bytes follow what the header tells of")
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
    """Read ``size`` bytes from a stream, in several reads if needed; fewer only at its end.

    Memory grows with the bytes read, not with ``size``.
    """
    parts, left = [], size
    while left > 0:
        part = file.read(min(left, _PART))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def damage_named(
    path: Path, wanted: str, progress: Callable[[], object] | None = None
) -> Iterator[None]:
    """Turn the exceptions of a damaged file into one error about the run.

    Parameters
    ----------
    path : Path
    wanted : str
        Expected content of the file.
    progress : callable, optional
        Returns a description of the data read so far.
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
