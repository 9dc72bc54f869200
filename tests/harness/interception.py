"""Tell of every file operation below a folder, and of every put and delete of objects.

In a folder, an operation is whatever changes what another process finds there: opening a file for
writing, writing, truncating, flushing to the disk, renaming, linking, removing, making and removing
folders. Python's own audit hooks report most of them. Writing and flushing have no hooks: files
below the folder are opened by a class that counts. In an object store (``memory://``), operations
are puts and deletes of objects.
"""

from __future__ import annotations

import _io
import builtins
import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

#: ``error``: the operation fails once, as on a bad disk. ``full``: from it on, whatever needs room
#: fails. ``unsure``: it takes effect, but an error is reported, as when an answer is lost.
Mode = Literal["error", "full", "unsure"]

_NEED_ROOM = {"open", "write", "mkdir", "link", "put", "allocate"}


class Watch:
    """Counts operations, and stops at some."""

    def __init__(
        self, wanted: Collection[int] | None, strike: Callable[[int, str], OSError | None]
    ) -> None:
        self.log: list[str] = []
        self.struck = 0
        self.is_armed = True
        self._wanted = wanted
        self._strike = strike
        self._full: OSError | None = None
        self._lock = threading.RLock()

    def act(self, kind: str, name: str, effect: Callable[[], Any] | None = None) -> Any:
        """Let an operation happen, or not; without an effect, it happens after this."""
        with self._lock:
            error = self._error(kind, name)
            if error is not None:
                if getattr(error, "unsure", False) and effect is not None:
                    effect()
                raise error
        return effect() if effect is not None else None

    def write(
        self, name: str, data: memoryview, write: Callable[[memoryview], int], *, again: bool
    ) -> tuple[int, OSError | None]:
        """Write; half of it, where this is where to stop.

        Returns
        -------
        int
            Bytes written.
        OSError or None
            What the next write of the same file has to raise: a disk reports the bytes that it
            took before it reports an error. Only if the caller will write ``again``.
        """
        with self._lock:
            if not self._is_next_wanted():
                error = self._error("write", name)
                if error is not None:
                    raise error
                return write(data), None
            half = len(data) // 2
            done = write(data[:half]) if half else 0
            error = self._error("write", name)
            if error is None:
                return done + write(data[done:]), None
            if again and done:
                return done, error
            raise error

    def _is_next_wanted(self) -> bool:
        return self.is_armed and (self._wanted is None or len(self.log) in self._wanted)

    def _error(self, kind: str, name: str) -> OSError | None:
        """Count an operation, and return what it has to raise."""
        if not self.is_armed:
            return None
        number, is_wanted = len(self.log), self._is_next_wanted()
        self.log.append(f"{kind} {name}")
        if self._full is not None and kind in _NEED_ROOM:
            return error_of(self._full.errno or errno.ENOSPC, name)
        if not is_wanted:
            return None
        self.struck += 1
        error = self._strike(number, name)
        if error is not None and error.errno == errno.ENOSPC:
            self._full = error
            return error if kind in _NEED_ROOM else None
        return error


def error_of(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)


def watch_folder(root: Path, watch: Watch) -> None:
    """Tell of every operation below a folder; for the life of this process, a forked child's."""
    prefix = os.path.join(os.path.realpath(root), "")
    seen = threading.local()  # the effect of an operation is no operation of its own

    def below(path: Any, folder: int = -1) -> str | None:
        """Return the path within the folder, of a path or a descriptor; None for others."""
        if isinstance(path, int):
            try:
                full = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        else:
            full = os.fsdecode(path)
            if not os.path.isabs(full):
                base = os.getcwd() if folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
                full = os.path.join(base, full)
        full = os.path.normpath(full)
        return full[len(prefix) :] if full.startswith(prefix) else None

    def there(name: str) -> bool:
        return os.path.lexists(prefix + name)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in hooked or not watch.is_armed or getattr(seen, "inside", False):
            return
        kind, tell = hooked[event]
        name = tell(arguments)
        if name is not None:
            watch.act(kind, name)

    def opened(arguments: tuple[Any, ...]) -> str | None:
        path, _, flags = arguments
        if isinstance(path, int) or not flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        ):
            return None
        name = below(path)
        changes = flags & os.O_TRUNC or name is not None and not there(name)
        return name if changes else None  # opening a file that is there changes nothing

    def folder_of(arguments: tuple[Any, ...], at: int) -> int:
        value = arguments[at] if len(arguments) > at else -1
        return value if isinstance(value, int) else -1

    def if_there(arguments: tuple[Any, ...]) -> str | None:
        name = below(arguments[0], folder_of(arguments, 1))
        return name if name is not None and there(name) else None

    def if_new(arguments: tuple[Any, ...]) -> str | None:
        name = below(arguments[0], folder_of(arguments, 2))
        return name if name is not None and not there(name) else None

    def target(arguments: tuple[Any, ...]) -> str | None:
        name = below(arguments[1], folder_of(arguments, 3))
        return below(arguments[0], folder_of(arguments, 2)) if name is None else name

    hooked: dict[str, tuple[str, Callable[[tuple[Any, ...]], str | None]]] = {
        "open": ("open", opened),
        "os.remove": ("remove", if_there),
        "os.rename": ("rename", target),
        "os.link": ("link", target),
        "os.symlink": ("link", target),
        "os.mkdir": ("mkdir", if_new),
        "os.rmdir": ("rmdir", if_there),
        "os.truncate": ("truncate", lambda arguments: below(arguments[0])),
    }

    class CountingFile(io.FileIO):
        """A file below the folder that is open for writing."""

        def __init__(self, *arguments: Any, again: bool) -> None:
            super().__init__(*arguments)
            self._again = again
            self._error: OSError | None = None

        def write(self, data: Any) -> int:
            name = below(self.fileno())
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if name is None:
                return super().write(data)
            view = memoryview(data).cast("B")
            done, self._error = watch.write(name, view, super().write, again=self._again)
            return done

        def truncate(self, size: int | None = None) -> int:
            name = below(self.fileno())
            if name is not None:
                watch.act("truncate", name)
            return super().truncate(size)

    real_open = io.open

    def open_counting(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        writes = set(mode) & set("wax+")
        if not writes or not isinstance(file, int | str | bytes | os.PathLike):
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if below(file) is None and opener is None:  # an opener may give any file
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        plain = mode.replace("b", "").replace("t", "")
        raw = CountingFile(file, plain, closefd, opener, again=buffering != 0)
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline)

    def counting(function: Any, kind: str) -> Any:
        def call(descriptor: Any, *arguments: Any, **more: Any) -> Any:
            name = below(descriptor) if isinstance(descriptor, int) else None
            if name is not None:
                watch.act(kind, name)
            return function(descriptor, *arguments, **more)

        return call

    def writing(function: Any) -> Any:
        def call(descriptor: int, data: Any, *more: Any) -> int:
            name = below(descriptor)
            if name is None or not isinstance(data, bytes | bytearray | memoryview):
                return function(descriptor, data, *more)
            place = list(more)

            def write(part: memoryview) -> int:
                done: int = function(descriptor, part, *place)
                if place:  # pwrite: where the next byte goes
                    place[0] += done
                return done

            return watch.write(name, memoryview(data).cast("B"), write, again=False)[0]

        return call

    def refused(name: str) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            if any(isinstance(a, int) and below(a) is not None for a in arguments[:2]):
                raise NotImplementedError(
                    f"os.{name} is not counted: teach tests/harness/interception.py"
                )
            return real[name](*arguments, **more)

        return call

    builtins.open = io.open = _io.open = open_counting  # type: ignore[assignment]
    for name in ("fsync", "fdatasync"):
        setattr(os, name, counting(getattr(os, name), "fsync"))
    os.posix_fallocate = counting(os.posix_fallocate, "allocate")
    for name in ("write", "pwrite"):
        setattr(os, name, writing(getattr(os, name)))
    real = {name: getattr(os, name) for name in ("writev", "pwritev", "sendfile",
                                                 "copy_file_range")}  # fmt: skip
    for name in real:
        setattr(os, name, refused(name))
    sys.addaudithook(hook)


def watch_objects(root: str, watch: Watch) -> None:
    """Tell of every put and delete of an object; for the life of this process."""
    from fsspec.implementations.memory import MemoryFileSystem

    real = {name: getattr(MemoryFileSystem, name) for name in ("_open", "_rm", "cp_file")}

    def name_of(path: str) -> str | None:
        full = MemoryFileSystem._strip_protocol(path)
        return full.removeprefix(root) if full.startswith(root) else None

    def open_counting(self: Any, path: str, mode: str = "rb", *arguments: Any, **more: Any) -> Any:
        name = name_of(path)
        if mode == "rb" or name is None:
            return real["_open"](self, path, mode, *arguments, **more)
        if "x" in mode and self.exists(path):
            raise FileExistsError(path)
        return watch.act("put", name, lambda: real["_open"](self, path, mode, *arguments, **more))

    def remove_counting(self: Any, path: str) -> None:
        name = name_of(path)
        if name is None or not self.exists(path):
            return real["_rm"](self, path)
        return watch.act("delete", name, lambda: real["_rm"](self, path))

    def copy_counting(self: Any, source: str, target: str, **more: Any) -> None:
        name = name_of(target)
        if name is None:
            return real["cp_file"](self, source, target, **more)
        return watch.act("put", name, lambda: real["cp_file"](self, source, target, **more))

    MemoryFileSystem._open = open_counting
    MemoryFileSystem._rm = remove_counting
    MemoryFileSystem.cp_file = copy_counting
