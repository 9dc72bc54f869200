"""Read small text files of a cohort: regular files of bounded size, in several encodings.

Sidecars and tables may be links without content, pipes, or gigabytes of other data. Reading never
blocks on them: :class:`UnreadableError` gives the reason.
"""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmritok.pipeline.tables.remarks import Reason
from fmritok.regular import NotAFileError, open_regular, read_start

__all__ = [
    "JSON_BYTES", "POINTER_BYTES", "TABLE_BYTES", "UnreadableError", "decode_text", "not_fetched",
    "read_json", "read_text", "text_lines",
]  # fmt: skip

#: Largest tables and text files, bytes; streamed tables have no limit.
TABLE_BYTES = 64 << 20
#: Largest JSON files, bytes.
JSON_BYTES = 16 << 20
_LONGEST_LINE = TABLE_BYTES
#: Files below this size are split into lines in memory, bytes.
_SHORT = 1 << 16
#: Largest pointer of git-annex or Git LFS, bytes: one to three short lines.
POINTER_BYTES = 1024
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnreadableError(Exception):
    """A file cannot be used. The text is the reason. Equal reasons have equal words."""


def read_text(path: Path, *, limit: int = TABLE_BYTES) -> str:
    """Read a text file.

    Parameters
    ----------
    path : Path
    limit : int
        Largest size, bytes.

    Raises
    ------
    UnreadableError
        If it cannot be read, is larger than the limit, not a regular file, or not text.
    """
    with _opened(path, limit) as file:
        return decode_text(file.read(limit))


def read_json(path: Path) -> dict[str, Any]:
    """Read the fields of a JSON file.

    Raises
    ------
    UnreadableError
        As :func:`read_text`, or if it is not a JSON object.
    """
    text = read_text(path, limit=JSON_BYTES)
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise UnreadableError(Reason.DEEP_JSON) from error
    except ValueError as error:
        raise UnreadableError(Reason.NO_JSON) from error
    if not isinstance(fields, dict):
        raise UnreadableError(Reason.NO_FIELDS)
    return fields


def text_lines(path: Path, *, limit: int | None = TABLE_BYTES) -> Iterable[str]:
    """Return the lines of a text file without line ends (Unix, Windows or old Mac).

    Each line is UTF-8 or else Windows-1252; a file with a UTF-16 mark is UTF-16. Long files are
    streamed.

    Parameters
    ----------
    path : Path
    limit : int, optional
        Largest size, bytes; None for streamed files of any size.

    Raises
    ------
    UnreadableError
        As :func:`read_text`. For long files also during iteration.
    """
    with _reasons(path):
        start = read_start(path, _SHORT)
    if len(start) >= min(_SHORT, _LONGEST_LINE) or start.startswith(_UTF16):
        return _long_lines(path, limit)
    if len(start) <= POINTER_BYTES and _is_pointer(start):
        raise UnreadableError(Reason.POINTER)
    return _short_lines(start.removeprefix(codecs.BOM_UTF8))


def _long_lines(path: Path, limit: int | None) -> Iterator[str]:
    with _opened(path, limit) as file:
        start = file.peek(3)
        if start.startswith(_UTF16):
            yield from _split(decode_text(file.read(TABLE_BYTES)))
            if file.read(1):
                raise UnreadableError(Reason.TOO_LARGE)
            return
        if start.startswith(codecs.BOM_UTF8):
            file.read(3)
        old_mac = None
        while line := file.readline(_LONGEST_LINE):
            if len(line) >= _LONGEST_LINE:
                raise UnreadableError(Reason.TOO_LARGE)
            line = line.rstrip(b"\r\n")
            if old_mac is None:
                old_mac = b"\r" in line
            for part in line.split(b"\r") if old_mac else (line,):
                yield decode_text(part)


def _short_lines(data: bytes) -> list[str]:
    """Return the lines of a short file, decoded as a whole if it has a single encoding."""
    first = data.partition(b"\n")[0].rstrip(b"\r")
    if b"\r" in first:  # of an old Mac
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = [line.rstrip(b"\r") for line in data.removesuffix(b"\n").split(b"\n")] if data else []
    try:
        text = b"\n".join(lines).decode()
    except UnicodeDecodeError:
        return [decode_text(line) for line in lines]
    if "\0" in text:
        raise UnreadableError(Reason.BINARY)
    return text.split("\n") if lines else []


def decode_text(data: bytes) -> str:
    """Decode UTF-8 with or without a mark, UTF-16 with a mark, or else Windows-1252.

    Raises
    ------
    UnreadableError
        If it is not text.
    """
    try:
        is_utf16 = data.startswith(_UTF16)
        text = data.decode("utf-16") if is_utf16 else data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\0" in text:
        raise UnreadableError(Reason.BINARY)
    return text


def not_fetched(path: Path) -> Reason | None:
    """Return how a file of git-annex, datalad or Git LFS lacks its content; None if it does not."""
    try:
        if path.is_symlink() and not path.exists():
            return Reason.LINK
        if path.stat().st_size <= POINTER_BYTES:
            with _opened(path, POINTER_BYTES):
                pass
    except UnreadableError as error:
        return Reason.POINTER if str(error) == Reason.POINTER else None
    except OSError:
        pass
    return None


@contextmanager
def _opened(path: Path, limit: int | None) -> Iterator[io.BufferedReader]:
    """Open a regular file. Errors while opening and reading become ``UnreadableError``."""
    with _reasons(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise UnreadableError(Reason.TOO_LARGE)
        if size <= POINTER_BYTES and _is_pointer(file.peek(POINTER_BYTES)):
            raise UnreadableError(Reason.POINTER)
        yield file


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Convert errors of a file to ``UnreadableError`` with a reason."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(_reason(path, error)) from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableError(Reason.MISSING) from error


def _is_pointer(start: bytes) -> bool:
    if start.startswith(b"version https://git-lfs.github.com/"):
        return True
    line = start.strip()
    return b"annex/objects/" in line and not any(c in line for c in (b"\n", b"\t", b",", b"{"))


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return Reason.LINK if os.path.islink(path) else Reason.MISSING
    if isinstance(error, PermissionError):
        return Reason.DENIED
    if isinstance(error, IsADirectoryError | NotAFileError):
        return Reason.IRREGULAR
    return f"{Reason.ERROR}: {error.strerror}"


def _split(text: str) -> list[str]:
    if "\n" in text:
        return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    return text.removesuffix("\r").split("\r")
