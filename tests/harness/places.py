"""Where a store or a training lies, which can be brought into a state and watched."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from interception import Mode, Watch, watch_folder, watch_objects


class Place(ABC):
    """Where a store lies, which can be brought into a state and watched."""

    #: Of the store.
    url: str
    modes: tuple[Mode, ...]

    @abstractmethod
    def state(self) -> Any:
        """Return what is there now, to be kept."""

    @abstractmethod
    def bring(self, state: Any) -> None:
        """Bring it into a state that was kept."""

    def same(self, state: Any) -> str:
        """Return a text that is equal for states of equal content."""
        # Names of unfinished files are random.
        named = sorted(
            (re.sub("[0-9a-f]{32}", "*", name), _without_times(name, data))
            for name, data in state.items()
        )
        return hashlib.sha256(repr(named).encode()).hexdigest()

    @abstractmethod
    def names(self) -> list[str]:
        """Return what is there, beside the store too; only names that every run gives alike."""

    @abstractmethod
    def watch(self, watch: Watch) -> None:
        """Tell of every operation, for as long as this process lives."""

    def to_send(self) -> Any:
        """Return what a child has to hand over to its parent."""
        return None

    def receive(self, sent: Any) -> None:
        """Take over what a child left."""
        assert sent is None


def _without_times(name: str, data: bytes | None) -> bytes | None:
    """Return what a file holds that does not depend on when, and by which process, it was made."""
    if data is None or name.endswith(".lock") or ".leases" in name:
        return None
    if "tensorboard/" in name:
        return b""
    if "/records/" not in name:
        return data
    return re.sub(rb'"digest": "[0-9a-f]*"|"seconds": \{[^}]*\}?', b"", data)


class Folder(Place):
    """A folder with a store in it, and whatever else a writer puts beside that.

    A state is the content of files by their names, and None by those of folders.
    """

    modes = ("error", "full")

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.url = str(self._folder / "t.zarr")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[bytes, bytes] = {}

    def state(self) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for folder, folders, names in os.walk(self._folder):
            below = os.path.relpath(folder, self._folder)
            found |= dict.fromkeys(os.path.join(below, name) for name in folders)
            for name in names:
                reading = os.open(os.path.join(folder, name), os.O_RDONLY)
                data = os.read(reading, 1 << 24)
                os.close(reading)
                # Most states share most of their content.
                found[os.path.join(below, name)] = self._known.setdefault(data, data)
        return found

    def bring(self, state: dict[str, bytes | None] | None) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        for name, data in (state or {}).items():
            path = self._folder / name
            path.mkdir() if data is None else path.write_bytes(data)

    def names(self) -> list[str]:
        return sorted(
            Path(folder, name).relative_to(self._folder).as_posix()
            for folder, _, names in os.walk(self._folder)
            for name in names
        )

    def watch(self, watch: Watch) -> None:
        watch_folder(self._folder, watch)


class Objects(Place):
    """A store of objects in this process's memory.

    Parameters
    ----------
    name : str
        Of the folder of objects.
    """

    modes = ("error", "unsure")

    def __init__(self, name: str) -> None:
        self._root = f"/{name}/"
        self.url = f"memory://{name}/t.zarr"

    def state(self) -> dict[str, bytes]:
        from fsspec.implementations.memory import MemoryFileSystem

        return {
            key.removeprefix(self._root): file.getvalue()
            for key, file in MemoryFileSystem.store.items()
            if key.startswith(self._root)
        }

    def bring(self, state: dict[str, bytes] | None) -> None:
        from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

        for key in [k for k in MemoryFileSystem.store if k.startswith(self._root)]:
            del MemoryFileSystem.store[key]
        folders = MemoryFileSystem.pseudo_dirs
        folders[:] = [f for f in folders if not f.startswith(self._root.rstrip("/"))]
        for key, value in (state or {}).items():
            file = MemoryFile(MemoryFileSystem(), self._root + key, value)
            MemoryFileSystem.store[self._root + key] = file

    def names(self) -> list[str]:
        return sorted(self.state())

    def watch(self, watch: Watch) -> None:
        watch_objects(self._root, watch)

    def to_send(self) -> dict[str, bytes]:
        return self.state()

    def receive(self, sent: dict[str, bytes]) -> None:
        self.bring(sent)
