"""Where a token store lives: a local folder or any fsspec URL."""

from __future__ import annotations

import os
import posixpath
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from fmritok.pipeline.errors import StoreError, expected

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["Location", "sync_folder"]


class Location:
    """A folder or URL prefix under which the objects of one store are kept.

    Parameters
    ----------
    url : str or os.PathLike
        A local path, or an fsspec URL such as ``s3://bucket/tokens.zarr`` or ``memory://tokens.zarr``.

    Raises
    ------
    StoreError
        If a local path exists and is a file.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        if text.startswith("file://"):
            text = text[len("file://") :]
        self.is_local = "://" not in text
        if self.is_local:
            path = Path(text).expanduser().absolute()
            if path.exists() and not path.is_dir():
                raise StoreError(
                    expected("Store path", path, "a folder or a new name", "a file",
                             "Choose another --store, or move the file away.")
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
        """Whether other processes see the same objects (``memory://`` belongs to one process)."""
        return not self.url.startswith("memory://")

    def zarr_store(self, *, read_only: bool = False) -> Store:
        """Open the location for zarr-python."""
        from zarr.storage import FsspecStore, LocalStore

        if self.is_local:
            return LocalStore(self.url, read_only=read_only)
        return FsspecStore.from_url(self.url, read_only=read_only)

    def read(self, key: str) -> bytes:
        """Return one object's bytes; ``FileNotFoundError`` if there is none."""
        if self.is_local:
            return Path(self.url, key).read_bytes()
        fs, root = self._remote()
        data: bytes = fs.cat_file(posixpath.join(root, key))
        return data

    def write(self, key: str, data: bytes) -> None:
        """Write one object so that it is seen whole or not at all, also after a power cut."""
        if not self.is_local:
            fs, root = self._remote()
            fs.pipe_file(posixpath.join(root, key), data)
            return
        target = Path(self.url, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    def sync(self, key: str) -> None:
        """Flush an object that another library wrote; nothing to do on an object store."""
        if self.is_local:
            path = Path(self.url, key)
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                sync_folder(path.parent)

    def exists(self, key: str = "") -> bool:
        """Tell whether an object or a folder exists."""
        if self.is_local:
            return Path(self.url, key).exists()
        fs, root = self._remote()
        return bool(fs.exists(posixpath.join(root, key)))

    def list_dir(self, key: str = "") -> list[str]:
        """Return the sorted names right below ``key``; empty if it does not exist."""
        if self.is_local:
            try:
                with os.scandir(Path(self.url, key)) as entries:
                    return sorted(entry.name for entry in entries)
            except FileNotFoundError:
                return []
        fs, root = self._remote()
        try:
            found = fs.ls(posixpath.join(root, key), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted({posixpath.basename(str(name).rstrip("/")) for name in found})

    def find(self, key: str) -> list[str]:
        """Return the keys of all objects below ``key``, sorted."""
        if self.is_local:
            base = Path(self.url, key)
            if base.is_file():
                return [key]
            return sorted(
                Path(folder, name).relative_to(self.url).as_posix()
                for folder, _, names in os.walk(base)
                for name in names
            )
        fs, root = self._remote()
        start = posixpath.join(root, key)
        return sorted(posixpath.relpath(str(name), root) for name in fs.find(start))

    def remove(self, key: str) -> None:
        """Delete one object if it is there."""
        if self.is_local:
            Path(self.url, key).unlink(missing_ok=True)
            return
        fs, root = self._remote()
        if fs.exists(posixpath.join(root, key)):
            fs.rm_file(posixpath.join(root, key))

    def used_bytes(self, key: str = "") -> int:
        """Return how many bytes the objects below ``key`` take."""
        if self.is_local:
            return sum(
                os.path.getsize(os.path.join(folder, name))
                for folder, _, names in os.walk(Path(self.url, key))
                for name in names
            )
        fs, root = self._remote()
        return int(fs.du(posixpath.join(root, key)))

    def _remote(self):  # type: ignore[no-untyped-def]
        import fsspec

        # A process that forks or restarts must not inherit a connection: fsspec caches per process.
        return fsspec.core.url_to_fs(self.url)


def sync_folder(folder: Path) -> None:
    """Flush a folder, or a file, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
