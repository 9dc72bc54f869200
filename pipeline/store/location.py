"""Location of a token store: a local folder or an fsspec URL, with atomic writes."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.disk import (
    make_folder,
    open_file,
    read_file,
    sync_folder,
    within,
    write_file,
)

__all__ = ["PARTIAL", "Location"]

#: Extension of unfinished files. A killed process may leave one behind.
PARTIAL = ".partial"
#: Errors of missing files. ESTALE: on NFS, a file removed after its folder was listed.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESTALE}
#: Error codes of object stores for a conditional write that lost against another process.
_REFUSED = ("precondition", "pre-condition", "conditionalrequestconflict")


class Location:
    """A folder or URL prefix with the objects of one store.

    Parameters
    ----------
    url : str or os.PathLike
        A local path, or an fsspec URL such as ``s3://bucket/tokens.zarr`` or ``memory://tokens.zarr``.

    Raises
    ------
    StoreError
        If a local path is a file.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        if not text.rpartition("://")[2].strip("/") and "://" in text or not text:
            raise StoreError(
                expected("Store path", repr(text), "a folder or an fsspec URL", "no name in it",
                         "Give the path of a store (--store).")
            )  # fmt: skip
        if text.startswith("file://"):
            text = text[len("file://") :]
        self.is_local = "://" not in text
        if self.is_local:
            path = Path(text).expanduser().absolute()
            if path.exists() and not path.is_dir():
                raise StoreError(
                    expected("Store path", path, "a folder or a new name", "a file",
                             "Choose another path (--store), or move the file away.")
                )  # fmt: skip
            self.url = str(path)
        else:
            self.url = text.rstrip("/")

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def __str__(self) -> str:
        return self.url

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same objects. False for ``memory://``."""
        return not self.url.startswith("memory://")

    def read(self, key: str) -> bytes:
        """Return the bytes of one object.

        Raises
        ------
        FileNotFoundError
            If it does not exist.
        StoreError
            If it is not a regular file, or too large (on a disk).
        """
        if self.is_local:
            return read_file(self._file(key))
        fs, path = self._object(key)
        data: bytes = fs.cat_file(path)
        return data

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of several objects. Missing ones are left out.

        Raises
        ------
        StoreError
            As :meth:`read`, or if all objects together do not fit the memory.
        """
        found: dict[str, bytes] = {}
        if self.is_local:
            done = 0
            for key in keys:
                try:
                    found[key] = read_file(self._file(key), before=done)
                    done += len(found[key])
                except OSError as error:
                    if error.errno not in _NOT_THERE:
                        raise
            return found
        paths = {key: self._object(key)[1] for key in keys}
        if not paths:
            return found
        fs, _ = self._object("")
        got: Any = fs.cat(list(paths.values()), on_error="return")
        by_path = {str(path).lstrip("/"): data for path, data in got.items()}
        for key, path in paths.items():
            data = by_path[path.lstrip("/")]
            if isinstance(data, bytes):
                found[key] = data
            elif not isinstance(data, FileNotFoundError):
                raise data
        return found

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes ``start:stop`` of an object; fewer at its end."""
        if self.is_local:
            with self.open_file(key) as file:
                file.seek(start)
                return file.read(stop - start)
        fs, path = self._object(key)
        data: bytes = fs.cat_file(path, start=start, end=stop)
        return data

    def open_file(self, key: str) -> BinaryIO:
        """Open a file of a local store.

        Raises
        ------
        StoreError
            If it is a FIFO, a socket or a device.
        """
        return open_file(self._file(key))

    def size(self, key: str) -> int:
        """Return the size of an object in bytes; ``FileNotFoundError`` if it does not exist."""
        if self.is_local:
            return self._file(key).stat().st_size
        fs, path = self._object(key)
        return int(fs.info(path)["size"])

    def write(self, key: str, data: bytes) -> None:
        """Write one object atomically. Readers see all of it or nothing, also after a power cut."""
        if not self.is_local:
            fs, path = self._object(key)
            fs.pipe_file(path, data)
            return
        target = self._file_to_change(key)
        make_folder(target.parent)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            write_file(partial, data)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """Write several objects that have no readers yet, and flush them to the disk."""
        if not self.is_local:
            paths = {self._object(key)[1]: data for key, data in files.items()}
            fs, _ = self._object("")
            fs.pipe(paths)
            return
        folders: dict[Path, None] = {}
        for key, data in files.items():
            target = self._file_to_change(key)
            make_folder(target.parent)
            write_file(target, data)
            folders[target.parent] = None
        for folder in folders:
            sync_folder(folder)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if it does not exist, and return whether it was written.

        The check and the write are one request: only one of several processes succeeds.
        """
        if self.is_local:
            target = self._file_to_change(key)
            make_folder(target.parent)
            try:
                with target.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
            return True
        fs, path = self._object(key)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if any(word in str(error).lower() for word in _REFUSED):
                return False
            raise
        return True

    def exists(self, key: str = "") -> bool:
        """Whether an object or a folder exists."""
        if self.is_local:
            return self._file(key).exists()
        fs, path = self._object(key)
        return bool(fs.exists(path))

    def list_dir(self, key: str = "") -> list[str]:
        """Return the sorted names of the entries of ``key``; empty if it does not exist."""
        if self.is_local:
            try:
                with os.scandir(self._file(key)) as entries:
                    return sorted(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                return []
        fs, path = self._object(key)
        try:
            found = fs.ls(path, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted({posixpath.basename(str(name).rstrip("/")) for name in found})

    def list_folders(self, key: str, *, holding: str) -> list[str]:
        """Return the sorted names of the folders below ``key`` that contain a certain file.

        Object stores have no folders. There, all entries of ``key`` except the file are returned.
        """
        names = [name for name in self.list_dir(key) if name != holding]
        if not self.is_local:
            return names
        base = os.fspath(self._file(key))  # a killed process may leave an empty folder
        return [name for name in names if os.path.exists(f"{base}/{name}/{holding}")]

    def find(self, key: str) -> list[str]:
        """Return the keys of all objects below ``key``, sorted."""
        if self.is_local:
            base = self._file(key)
            if base.is_file():
                return [key]
            return sorted(
                Path(folder, name).relative_to(self.url).as_posix()
                for folder, _, names in os.walk(base)
                for name in names
            )
        fs, path = self._object(key)
        root = self._object("")[1].rstrip("/")
        return sorted(posixpath.relpath(str(name), root) for name in fs.find(path))

    def remove(self, key: str) -> None:
        """Delete one object if it exists."""
        if self.is_local:
            self._file_to_change(key).unlink(missing_ok=True)
            return
        fs, path = self._object(key)
        if fs.exists(path):
            fs.rm_file(path)

    def remove_tree(self, key: str) -> None:
        """Delete all objects below ``key``."""
        if self.is_local:
            shutil.rmtree(self._file_to_change(key), ignore_errors=True)
            return
        fs, path = self._object(key)
        with suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    def remove_partial(self, key: str = "") -> None:
        """Delete unfinished files of killed processes in ``key``."""
        if self.is_local:
            for name in self.list_dir(key):
                if name.endswith(PARTIAL) and self._file(posixpath.join(key, name)).is_file():
                    self.remove(posixpath.join(key, name))

    def used_bytes(self, key: str = "") -> int:
        """Return the total size of the objects below ``key``, bytes."""
        if self.is_local:
            return sum(
                os.lstat(os.path.join(folder, name)).st_size
                for folder, _, names in os.walk(self._file(key))
                for name in names
            )
        fs, path = self._object(key)
        return int(fs.du(path))

    def _file(self, key: str) -> Path:
        return Path(self.url, _checked(key))

    def _file_to_change(self, key: str) -> Path:
        return within(Path(self.url), self._file(key))

    def _object(self, key: str) -> tuple[Any, str]:
        import fsspec

        # A forked process must not inherit a connection. fsspec caches per process.
        try:
            fs, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                expected("Store URL", self.url, "a protocol that fsspec can open, such as s3://",
                         str(error).rstrip("."),
                         "Correct it (--store), or install the package that the protocol needs.")
            ) from error  # fmt: skip
        return fs, posixpath.join(root, _checked(key)) if key else str(root)


def _checked(key: str) -> str:
    """Refuse keys that lead out of the store. Names in a store are untrusted."""
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise StoreError(
            expected("Name", repr(key), "a path within the store",
                     "a path outside of it", "Do not use this store: it was edited.")
        )  # fmt: skip
    return key
