"""Files of a store on a local disk: flushed writes and bounded reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from fmritok.errors import StoreError, expected
from fmritok.regular import NotAFileError, memory_left, open_regular

__all__ = ["make_folder", "open_file", "read_file", "sync_folder", "within", "write_file"]

#: Largest metadata file, bytes. The seal of a table with 20,000 columns takes 10 MB.
_METADATA_BYTES = 32 * 2**20
#: Other files below this size are read without a check of the free memory, bytes.
_SMALL_BYTES = 64 * 2**20


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises
    ------
    StoreError
        If it is a FIFO, a socket or a device.
    """
    try:
        return open_regular(path)
    except NotAFileError as error:
        raise _no_file(path, error) from error


def read_file(path: Path, *, before: int = 0) -> bytes:
    """Return the bytes of a file.

    Parameters
    ----------
    path : Path
    before : int
        Bytes of other files that are already in memory.

    Raises
    ------
    StoreError
        If it is not a regular file, or too large for metadata or for the memory.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if path.name == "zarr.json":
            most = _METADATA_BYTES
        else:
            most = size if before + size <= _SMALL_BYTES else memory_left()
        if size > most:
            raise _no_file(path, f"{size:,} bytes, where at most {most:,} can be read")
        return file.read(size)


def write_file(path: Path, data: bytes) -> None:
    """Write a file, and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder, or a file, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and flush their parent folders to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def within(root: Path, path: Path) -> Path:
    """Check that a path may be written or removed: no linked folder leads out of the store.

    A link in place of a file is replaced or removed, not followed. Reading through links is
    harmless: checksums cover the content.

    Raises
    ------
    StoreError
        If the real folder lies outside of the store, or the path is the store itself.
    """
    top, folder = os.path.realpath(root), os.path.realpath(path.parent)
    if path == root or os.path.commonpath([top, folder]) != top:
        raise StoreError(
            expected("Folder", path.parent, f"one that lies in {top}", folder,
                     "fmritok writes and removes nothing outside of the store. Move the folder "
                     "into it, or use another store.")
        )  # fmt: skip
    return path


def _no_file(path: Path, got: object) -> StoreError:
    return StoreError(
        expected("Store file", path, "a regular file", got, "Restore it from a copy.")
    )
