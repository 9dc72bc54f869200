"""Make the file operations of a command fail one at a time, or end it at any of them.

A command runs in a forked child, which meets its fault there and is gone afterwards: nothing of it
stays in this process, no lock, no cache and no patched function.

In a folder, an operation is whatever changes what another process finds there: opening a file for
writing, writing, truncating, flushing to the disk, renaming, linking, removing, making and removing
folders. Python's own audit hooks report most of them. Writing and flushing have no hooks: files
below the folder are opened by a class that counts. In an object store (``memory://``), operations
are puts and deletes of objects.

What ``kill -9`` leaves is what lies there at that moment. So one run, stopped at every operation
for a copy to be made, gives what is left by a kill at each of them; a write is stopped when half of
its bytes are there.
"""

from __future__ import annotations

import _io
import asyncio
import builtins
import contextlib
import errno
import faulthandler
import hashlib
import io
import os
import pickle
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tiny import fmritok

#: ``error``: the operation fails once, as on a bad disk. ``full``: from it on, whatever needs room
#: fails. ``unsure``: it takes effect, but an error is reported, as when an answer is lost.
Mode = Literal["error", "full", "unsure"]

_NEED_ROOM = {"open", "write", "mkdir", "link", "put", "allocate"}
_SECONDS = 60.0


class ChildError(Exception):
    """A child did not come back with a result."""


@dataclass
class Outcome:
    """What a command did.

    Attributes
    ----------
    exit_code : int
    output : str
    traceback : str
        Of an exception that the command line did not turn into an error message.
    operations : list of str
        In the order in which they were asked for.
    struck : bool
        Whether the fault was met.
    """

    exit_code: int
    output: str
    traceback: str
    operations: list[str] = field(default_factory=list)
    struck: bool = False


def invoke(arguments: Collection[object]) -> Outcome:
    """Run a command in this process."""
    result = fmritok(*arguments)
    error = result.exception
    raised = error is not None and not isinstance(error, SystemExit)
    text = "".join(traceback.format_exception(error)) if raised else ""
    return Outcome(result.exit_code, result.output, text)


def with_fault(
    arguments: Collection[object], place: Place, number: int | None, mode: Mode = "error"
) -> Outcome:
    """Run a command in a child in which one operation fails; None for none.

    What it leaves is in the place afterwards.
    """

    def run() -> tuple[Outcome, Any]:
        watch = _Watch({number} if number is not None else set(), _Failing(mode))
        place.watch(watch)
        outcome = invoke(arguments)
        watch.is_armed = False
        outcome.operations, outcome.struck = watch.log, watch.struck > 0
        return outcome, place.to_send()

    outcome, sent = in_child(run)
    place.receive(sent)
    return outcome


def killed_everywhere(
    arguments: Collection[object], place: Place, wanted: Collection[int] | None = None
) -> tuple[Outcome, dict[int, Any]]:
    """Run a command in a child, and keep what a kill at each operation would have left.

    Parameters
    ----------
    arguments : collection
    place : Place
    wanted : collection of int, optional
        Numbers of operations; default: all.

    Returns
    -------
    Outcome
        Of the command, which was not disturbed.
    dict of int to object
        What the place held, by the number of the operation.
    """

    def run() -> tuple[Outcome, dict[int, Any]]:
        keep = _Keeping(place)
        watch = _Watch(wanted, keep)
        place.watch(watch)
        outcome = invoke(arguments)
        watch.is_armed = False
        outcome.operations = watch.log
        return outcome, keep.kept

    found: tuple[Outcome, dict[int, Any]] = in_child(run)
    return found


def in_child(function: Callable[[], Any], *, seconds: float = _SECONDS) -> Any:
    """Call a function in a forked child, and return what it returned.

    Raises
    ------
    ChildError
        If it raised, died or took too long.
    """
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as stacks:
        pid = os.fork()
        if pid == 0:
            try:
                faulthandler.dump_traceback_later(0.9 * seconds, file=stacks)
                torch.set_num_threads(1)  # the threads that the parent computed with are not here
                try:
                    content = pickle.dumps((True, function()))
                except BaseException:
                    content = pickle.dumps((False, traceback.format_exc()))
                answer.write(content)
                answer.flush()
            finally:
                os._exit(0)
        if not _ended(pid, seconds):
            stacks.seek(0)
            raise ChildError(f"it did not end within {seconds:.0f} s: {stacks.read().decode()}")
        answer.seek(0)
        content = answer.read()
    if not content:
        raise ChildError("it died")
    is_good, value = pickle.loads(content)
    if not is_good:
        raise ChildError(value)
    return value


def _ended(pid: int, seconds: float) -> bool:
    watched = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([watched], [], [], seconds)
        if not ended:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(watched)
        os.waitpid(pid, 0)
    return bool(ended)


class _Watch:
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
            return _error_of(self._full.errno or errno.ENOSPC, name)
        if not is_wanted:
            return None
        self.struck += 1
        error = self._strike(number, name)
        if error is not None and error.errno == errno.ENOSPC:
            self._full = error
            return error if kind in _NEED_ROOM else None
        return error


class _Failing:
    """Fails an operation."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def __call__(self, number: int, name: str) -> OSError:
        error = _error_of(errno.ENOSPC if self._mode == "full" else errno.EIO, name)
        error.unsure = self._mode == "unsure"  # type: ignore[attr-defined]
        return error


class _Keeping:
    """Copies the place at an operation, which then happens."""

    def __init__(self, place: Place) -> None:
        self.kept: dict[int, Any] = {}
        self._place = place

    def __call__(self, number: int, name: str) -> None:
        self.kept[number] = self._place.state()


def _error_of(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)


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
    def watch(self, watch: _Watch) -> None:
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

    def watch(self, watch: _Watch) -> None:
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

    def watch(self, watch: _Watch) -> None:
        watch_objects(self._root, watch)

    def to_send(self) -> dict[str, bytes]:
        return self.state()

    def receive(self, sent: dict[str, bytes]) -> None:
        self.bring(sent)


def watch_folder(root: Path, watch: _Watch) -> None:
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
                raise NotImplementedError(f"os.{name} is not counted: teach tests/faults.py")
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


def watch_objects(root: str, watch: _Watch) -> None:
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


@contextlib.contextmanager
def zarr_in_this_thread() -> Iterator[None]:
    """Let zarr-python do its work here: in an order that is always the same, and sooner.

    It hands everything to a thread with an event loop, and that hands files to further threads.
    """
    import zarr
    import zarr.core.sync

    real_sync, real_to_thread = zarr.core.sync.sync, asyncio.to_thread
    own = threading.local()

    def sync(coroutine: Any, loop: Any = None, timeout: float | None = None) -> Any:
        if getattr(own, "pid", None) != os.getpid():  # a child's loop is its own
            own.pid, own.loop = os.getpid(), asyncio.new_event_loop()
        return own.loop.run_until_complete(coroutine)

    async def here(function: Any, /, *arguments: Any, **more: Any) -> Any:
        return function(*arguments, **more)

    modules = [
        module for name, module in list(sys.modules.items())
        if name.startswith("zarr.") and getattr(module, "sync", None) is real_sync
    ]  # fmt: skip
    assert modules
    for module in modules:
        module.sync = sync  # type: ignore[attr-defined]
    asyncio.to_thread = here  # type: ignore[assignment]
    try:
        with zarr.config.set({"async.concurrency": 1}):
            yield
    finally:
        asyncio.to_thread = real_to_thread
        for module in modules:
            module.sync = real_sync  # type: ignore[attr-defined]
