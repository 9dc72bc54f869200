"""The crash harness itself: it sees every operation, and leaves what a real kill leaves."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import ChildError, in_child
from faults import Failing, killed_everywhere, with_fault
from interception import Watch
from places import Folder, Objects, Place
from this_thread import zarr_in_this_thread
from tiny import tokenize_options, write_atlas, write_cohort

from fmritok.pipeline.store.location import Location


def watched(folder: Path, act: Callable[[], Any], number: int | None = None, mode: Any = "error"):
    """Run a function in a child; return the operations, and the error that it ended with."""
    place = Folder(folder)

    def run() -> tuple[list[str], str]:
        watch = Watch({number} if number is not None else set(), Failing(mode))
        place.watch(watch)
        error = ""
        try:
            act()
        except OSError as caught:
            error = errno.errorcode[caught.errno or 0]
        watch.is_armed = False
        return watch.log, error

    return in_child(run)


def all_kinds(folder: Path) -> None:
    """Do everything that changes a folder, in the ways that libraries do it."""
    (folder / "a").mkdir()
    (folder / "a").mkdir(exist_ok=True)  # changes nothing
    (folder / "a" / "one").write_text("one")
    with open(folder / "a" / "two", "wb") as file:
        file.write(b"two")
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "a" / "two", folder / "a" / "three")
    os.link(folder / "a" / "one", folder / "a" / "four")
    descriptor = os.open(folder / "b", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"1234")
    os.pwrite(descriptor, b"56", 2)
    os.ftruncate(descriptor, 3)
    os.close(descriptor)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="named") as named:
        named.write(b"x")
    (folder / "a" / "one").read_text()
    (folder / "missing").unlink(missing_ok=True)  # changes nothing
    shutil.rmtree(folder / "a")


KINDS = [
    "mkdir a", "open a/one", "write a/one", "open a/two", "write a/two", "fsync a/two",
    "rename a/three", "link a/four", "open b", "write b", "write b", "truncate b", "open named",
    "write named", "remove named", "remove a/four", "remove a/one", "remove a/three", "rmdir a",
]  # fmt: skip


def test_every_kind_of_operation_is_seen(tmp_path):
    operations, error = watched(tmp_path / "x", lambda: all_kinds(tmp_path / "x"))
    names = [o.partition("named")[0] + ("named" if "named" in o else "") for o in operations]
    assert sorted(names) == sorted(KINDS)  # rmtree's order is the folder's own
    assert names[:14] == KINDS[:14]
    assert not error


def test_each_of_them_can_fail(tmp_path):
    for number, operation in enumerate(KINDS[:13]):
        folder = tmp_path / f"{number}"
        operations, error = watched(folder, lambda folder=folder: all_kinds(folder), number)
        assert error == "EIO"
        assert len(operations) >= number + 1
        assert operations[number].startswith(operation)


def test_a_write_that_fails_leaves_half(tmp_path):
    def act() -> None:
        (tmp_path / "x" / "file").write_bytes(b"12345678")

    def raw() -> None:
        descriptor = os.open(tmp_path / "x" / "file", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"12345678")

    assert watched(tmp_path / "x", act, 1, "full") == (["open file", "write file"], "ENOSPC")
    assert (tmp_path / "x" / "file").read_bytes() == b"1234"
    (tmp_path / "x" / "file").unlink()
    assert watched(tmp_path / "x", raw, 1)[1] == "EIO"
    assert (tmp_path / "x" / "file").read_bytes() == b"1234"


def test_a_full_disk_stays_full_and_can_be_cleared(tmp_path):
    def act() -> None:
        folder = tmp_path / "x"
        (folder / "before").write_bytes(b"12")
        for i in range(3):
            with pytest.raises(OSError, match="No space"):
                (folder / f"{i}").write_bytes(b"12")
        (folder / "before").unlink()

    operations, error = watched(tmp_path / "x", act, 2, "full")
    assert not error
    assert operations[2:] == ["open 0", "open 1", "open 2", "remove before"]
    assert not list((tmp_path / "x").iterdir())


def test_objects_that_are_put_and_deleted_are_seen():
    place = Objects("faults")
    location = Location(place.url)

    def run(number: int | None, mode: Any) -> tuple[list[str], Any, Any]:
        watch = Watch({number} if number is not None else set(), Failing(mode))
        place.watch(watch)
        error = None
        try:
            location.write("a", b"1")
            location.write("b/c", b"2")
            location.remove("a")
        except OSError as caught:
            error = caught.errno
        return watch.log, error, place.state()

    for number, mode, wanted in (
        (None, "error", {"t.zarr/b/c": b"2"}),
        (0, "error", {}),
        (1, "unsure", {"t.zarr/a": b"1", "t.zarr/b/c": b"2"}),
        (2, "error", {"t.zarr/a": b"1", "t.zarr/b/c": b"2"}),
        (2, "unsure", {"t.zarr/b/c": b"2"}),
    ):
        place.bring(None)
        log, error, state = in_child(lambda number=number, mode=mode: run(number, mode))
        assert error == (None if number is None else errno.EIO)
        assert state == wanted
        assert log == ["put t.zarr/a", "put t.zarr/b/c", "delete t.zarr/a"][: len(log)]


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Iterator[tuple[Folder, list[str]]]:
    folder = tmp_path_factory.mktemp("faults")
    atlas = write_atlas(folder / "atlas")
    cohort = write_cohort(folder / "cohort", ["100001", "100002"])
    place = Folder(folder / "case")
    with zarr_in_this_thread():
        yield place, tokenize_options(cohort, place.url, atlas)


def test_what_is_kept_is_what_a_real_kill_leaves(ready):
    place, arguments = ready
    place.bring(None)
    count = len(with_fault(arguments, place, None).operations)
    numbers = set(range(5, count, count // 3))
    place.bring(None)
    outcome, kept = killed_everywhere(arguments, place, numbers)
    assert outcome.exit_code == 0
    for number in numbers:
        place.bring(None)
        with pytest.raises(ChildError, match="died"):
            in_child(lambda number=number: _die_at(number, place, arguments))
        assert place.same(place.state()) == place.same(kept[number])


def _die_at(number: int, place: Place, arguments: list[str]) -> None:
    from faults import invoke

    def die(*_: object) -> None:
        os._exit(1)

    place.watch(Watch({number}, die))
    invoke(arguments)


def test_nothing_is_in_a_store_that_was_not_seen_to_be_written(ready):
    place, arguments = ready
    place.bring(None)
    outcome = with_fault(arguments, place, None)
    assert outcome.exit_code == 0, outcome.output
    kinds = {"open", "rename", "link"}
    seen = {o.split(" ", 1)[1] for o in outcome.operations if o.split()[0] in kinds}
    assert set(place.names()) <= seen
    assert sum(o.startswith("write") for o in outcome.operations) >= len(place.names()) - 1


def test_a_child_that_does_not_end_is_ended():
    with pytest.raises(ChildError, match="did not end within"):
        in_child(lambda: os.read(os.pipe()[0], 1), seconds=0.5)
    with pytest.raises(ChildError, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0)
