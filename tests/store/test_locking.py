"""One process at a time writes a token group, on a disk and on an object store."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from fmritok.errors import StoreError
from fmritok.pipeline.store.damage import Damage
from fmritok.pipeline.store.ledger import allocate
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks import lease
from fmritok.pipeline.store.locks.holder import Holder
from fmritok.pipeline.store.locks.lease import Lease
from fmritok.pipeline.store.locks.lock_file import HeldError, LockFile
from fmritok.pipeline.store.locks.locking import check_held, is_held, one_writer
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.verify import drop_runs, verify_store

SPEC = GroupSpec("vae", 3, 4, "int8", chunk_frames=8, shard_frames=32)


@pytest.fixture(params=["disk", "memory"])
def location(request, tmp_path):
    if request.param == "disk":
        return Location(tmp_path / "t.zarr")
    return Location(f"memory://{tmp_path.name}/t.zarr")


def around(location):
    """Return what lies beside a store, without the store."""
    if location.is_local:
        return [path.name for path in os.scandir(os.path.dirname(location.url))
                if path.name.startswith(".")]  # fmt: skip
    return [key for key in Location(location.url.rpartition("/")[0]).find("") if ".leases" in key]


def hold(location, group="vae"):
    with one_writer(location, group):
        pass


def test_who_asks_whether_a_group_is_held_does_not_take_it(location):
    assert not is_held(location, "vae")
    with one_writer(location, "vae"):
        assert is_held(location, "vae")
        assert not is_held(location, "network")
    assert not is_held(location, "vae")
    assert around(location) == []


def test_a_thread_that_holds_the_root_may_ask_for_it_again(location):
    with one_writer(location):
        hold(location, "")
        thread_errors = []

        def other():
            try:
                hold(location, "")
            except StoreError as error:
                thread_errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(thread_errors) == 1
    hold(location, "")


def test_a_second_writer_is_told_who_the_first_one_is(location):
    with one_writer(location, "vae"):
        with pytest.raises(StoreError, match=rf"no other writer, got process {os.getpid()} on "):
            hold(location)
        hold(location, "network")
        hold(location, "")
    hold(location)
    assert around(location) == []


def test_a_writer_waits_for_another(location):
    release = threading.Event()

    def other():
        with one_writer(location, "vae"):
            taken.set()
            release.wait()

    taken = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    taken.wait()
    threading.Timer(0.3, release.set).start()
    with one_writer(location, "vae", wait_s=600):
        assert release.is_set()
    thread.join()


def test_a_link_to_a_store_is_the_same_store(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.zarr").symlink_to(tmp_path / "store")
    with one_writer(Location(tmp_path / "store"), "vae"):
        with pytest.raises(StoreError, match="no other writer"):
            hold(Location(tmp_path / "elsewhere" / "link.zarr"))


def test_a_killed_writer_holds_nothing(tmp_path):
    code = (
        "import sys, time\n"
        "from fmritok.pipeline.store.location import Location\n"
        "from fmritok.pipeline.store.locks.locking import one_writer\n"
        "with one_writer(Location(sys.argv[1]), 'vae'):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    store = Location(tmp_path / "t.zarr")
    with subprocess.Popen([sys.executable, "-c", code, store.url], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=f"got process {other.pid} on"):
            hold(store)
        other.kill()
        other.wait()
    hold(store)
    assert around(store) == []


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StoreError, match=r"Lock file .*: expected a folder that can be written"):
        hold(Location(file / "below" / "t.zarr"))


@pytest.fixture
def bucket(tmp_path):
    return Location(f"memory://{tmp_path.name}/t.zarr")


def test_a_lease_that_ended_passes_to_the_next_and_its_holder_notices(bucket, monkeypatch):
    first, second = Lease(bucket, "vae", what="x"), Lease(bucket, "vae", what="x")
    first.acquire()
    with pytest.raises(StoreError, match="no other writer"):
        second.acquire()
    now = time.time()
    monkeypatch.setattr(lease.time, "time", lambda: now + lease.DURATION_S + 1)
    second.acquire()
    with pytest.raises(StoreError, match="expected the lease of this process, got that of another"):
        first.check()
    second.check()
    first.release()  # does not take the other's
    second.check()
    second.release()
    assert around(bucket) == []


def test_a_lease_is_renewed_while_it_is_held(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    held = Lease(bucket, "vae", what="x")
    held.acquire()
    before = held._read(held._number)["ends"]
    while held._read(held._number)["ends"] <= before:  # the test's own time limit ends it
        time.sleep(0.01)
    held.release()


def test_the_lease_of_a_process_that_died_on_this_machine_has_ended(bucket):
    held = Lease(bucket, "vae", what="x")
    held._holder = replace(Holder.this_process(), began=1.0)  # another process of the same number
    held.acquire()
    hold(bucket)
    far = Lease(bucket, "vae", what="x")
    far._holder = replace(Holder.this_process(), host="elsewhere", pid=1)
    far.acquire()
    with pytest.raises(StoreError, match="got process 1 on elsewhere"):
        hold(bucket)
    far.release()


def test_of_many_that_want_a_group_at_once_one_gets_it(location):
    inside, most, errors = [], [], []

    def work():
        try:
            with one_writer(location, "vae", wait_s=600):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()
        except Exception as error:
            errors.append(error)

    lease_wait, lease._LOOK_AGAIN_S = lease._LOOK_AGAIN_S, 0.005
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lease._LOOK_AGAIN_S = lease_wait
    assert errors == []
    assert most == [1] * 8
    assert around(location) == []


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_lock_files_all_the_same(tmp_path, monkeypatch, number):
    """Lustre and NFS, unless they are mounted with them."""

    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", unsupported)
    first, second = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    first.acquire()
    with pytest.raises(HeldError, match="another process at work"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert not (tmp_path / "lock").exists()


def test_a_holder_that_has_not_said_yet_who_it_is_keeps_its_lock(tmp_path):
    """The file still names the process that was killed before it."""
    first = LockFile(tmp_path / "lock")
    first.acquire()
    killed = replace(Holder.this_process(), began=1.0)
    (tmp_path / "lock").write_bytes(killed.to_json())
    with pytest.raises(HeldError):
        LockFile(tmp_path / "lock").acquire()
    first.release()


def test_a_planner_that_lost_its_lease_changes_nothing(bucket, run_table, monkeypatch):
    """It slept too long; another one planned meanwhile."""
    with one_writer(bucket, "vae"):
        allocate(bucket, SPEC, run_table([10]))
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(lease.time, "time", lambda: now + lease.DURATION_S + 1)
            other = Lease(bucket, "vae", what="x")
            other.acquire()
        document = bucket.read("vae/zarr.json")
        with pytest.raises(StoreError, match="the lease of this process"):
            allocate(bucket, SPEC, run_table([10, 20]))
        assert bucket.read("vae/zarr.json") == document
        other.release()
    check_held(bucket, "vae")


def test_two_planners_of_one_group_of_an_object_store(bucket, run_table):
    """Both tables would be written; one cohort's rows would vanish."""
    with one_writer(bucket, "vae"):
        with pytest.raises(StoreError, match="no other writer"):
            hold(bucket)
        allocate(bucket, SPEC, run_table([10], subjects=["a"]))
    with one_writer(bucket, "vae"):
        plan = allocate(bucket, SPEC, run_table([40], subjects=["b"]))
    assert plan["start"].tolist() == [32]


def test_the_lock_file_says_who_holds_it(tmp_path):
    with one_writer(Location(tmp_path / "t.zarr"), "vae"):
        said = json.loads((tmp_path / ".t.zarr.vae.lock").read_text())
    assert said["pid"] == os.getpid()
    assert np.isclose(said["since"], time.time(), atol=600)


def test_two_new_groups_made_at_once_are_both_there_and_sound(location, run_table):
    def make(name):
        try:
            with one_writer(location, name):
                allocate(location, replace(SPEC, name=name), run_table([10]))
        except Exception as error:
            errors.append(error)

    errors = []
    threads = [threading.Thread(target=make, args=(f"g{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert TokenStore(location.url).groups == ("g0", "g1", "g2", "g3")
    assert list(verify_store(location)) == []


def test_runs_are_not_dropped_while_their_group_is_written(make_store):
    store, _ = make_store([20])
    damage = [Damage("vae", "demo_100_run0", "vae/tokens", "it was being written")]
    with one_writer(store, "vae"):
        with pytest.raises(StoreError, match="no other writer"):
            drop_runs(store, damage)
    # What looked damaged while it was written, and is sound now, stays.
    assert drop_runs(store, damage) == 0
    assert TokenStore(store.url).group().runs["run_id"].tolist() == ["demo_100_run0"]
