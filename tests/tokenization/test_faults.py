"""A fault of the machine stops the tokenization with one error; a fault of a run is that run's."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from cohorts import write_run
from commands import inspect, tokenize, written
from tiny import fmritok

from fmritok import faults
from fmritok.errors import (
    AtlasError,
    MachineError,
    NoSpaceError,
    RunError,
    StoreError,
    WeightsError,
)
from fmritok.faults import told_apart
from fmritok.pipeline.headers import first_bytes
from fmritok.pipeline.sources.scratch import ScratchArray
from fmritok.pipeline.sources.volume import VolumeSource
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.tokenization import task
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

PLACES = ("source", "plan", "work", "setup", "store")


def os_error(number, path="/somewhere"):
    return OSError(number, os.strerror(number), path)


def caused(error, cause):
    error.__cause__ = cause
    return error


def client_error():
    """Raise what an S3 client raises, without one: its package is known by name."""
    kind = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    return kind('Could not connect to the endpoint URL: "https://s3"')


def too_large_for_any_machine():
    try:
        np.empty(1 << 55)
    except MemoryError as error:
        return error


#: What is raised, words of the error, and where it is the machine's fault.
EVERYWHERE = PLACES
CASES = {
    "GPU memory": (torch.OutOfMemoryError("CUDA out of memory."), "--device cpu", EVERYWHERE),
    "GPU memory of old": (RuntimeError("CUDA error: out of memory"), "GPU memory", EVERYWHERE),
    "cuBLAS": (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), "GPU memory", EVERYWHERE),
    "GPU": (torch.AcceleratorError("CUDA error: an illegal memory access"), "GPU", EVERYWHERE),
    "driver": (RuntimeError("Found no NVIDIA driver on your system."), "nvidia-smi", EVERYWHERE),
    "driver too old": (RuntimeError("CUDA driver version is insufficient"), "GPU", EVERYWHERE),
    "torch's memory": (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
                       "--workers", EVERYWHERE),
    "memory": (MemoryError("Unable to allocate 2 GiB"), "--workers", EVERYWHERE),
    "mapped memory": (RuntimeError("unable to mmap 64 bytes: Cannot allocate memory (12)"),
                      "--workers", EVERYWHERE),
    "memory behind a reader's words": (caused(RunError("x"), MemoryError()), "Memory", EVERYWHERE),
    "threads": (RuntimeError("can't start new thread"), "ulimit", EVERYWHERE),
    "no space": (os_error(errno.ENOSPC), "Free some space", EVERYWHERE),
    "quota": (os_error(errno.EDQUOT), "Free some space", EVERYWHERE),
    "open files": (os_error(errno.EMFILE), "ulimit -n", EVERYWHERE),
    "open files of all": (os_error(errno.ENFILE), "ulimit -n", EVERYWHERE),
    "open files behind words": (caused(RunError("x"), os_error(errno.EMFILE)), "ulimit",
                                EVERYWHERE),
    "a dead mount": (os_error(errno.ENOTCONN), "network", EVERYWHERE),
    "S3 does not answer": (client_error(), "Network", EVERYWHERE),
    "no file": (os_error(errno.ENOENT), "/somewhere", ("plan", "work", "setup", "store")),
    "no right": (os_error(errno.EACCES), "Correct the rights", ("plan", "work", "setup", "store")),
    "read-only": (os_error(errno.EROFS), "/somewhere", ("plan", "work", "setup", "store")),
    "stale": (os_error(errno.ESTALE), "/somewhere", ("plan", "work", "setup", "store")),
    "defective disk": (os_error(errno.EIO), "/somewhere", ("plan", "work", "setup", "store")),
    "S3 refuses": (PermissionError("Access Denied"), "Access", ("plan", "work", "setup", "store")),
    "S3 is busy": (OSError(errno.EBUSY, "Reduce your request rate"), "request rate",
                   ("plan", "work", "setup", "store")),
    "damaged run": (RunError("Frame 2 has NaN"), "Frame 2", ("setup", "store")),
    "run beyond any machine": (too_large_for_any_machine(), "allocate", ("setup", "store")),
    "atlas that does not fit": (AtlasError("lies elsewhere"), "elsewhere", ("setup", "store")),
    "atlas that cannot be read": (caused(AtlasError("no such file"), OSError(2, "x")),
                                  "no such file", ("work", "setup", "store")),
    "weights": (WeightsError("Weights x: none"), "Weights x: none", ("setup", "store")),
    "read back": (StoreError("other values"), "other values", ("setup", "store")),
    "a mistake of ours": (ValueError("shapes do not match"), "shapes", ("setup", "store")),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CASES)
def test_whose_fault_it_is(name, place):
    error, words, machine_s = CASES[name]
    if place not in machine_s:
        with pytest.raises(type(error)) as passed, told_apart(place, "/folder", "run1"):
            raise error
        assert passed.value is error
        return
    with pytest.raises(MachineError, match=words) as found, told_apart(place, "/folder", "run1"):
        raise error
    assert "\n" not in str(found.value)
    found.value.__cause__ = found.value.__context__ = None  # the class of one is made up here
    there = pickle.loads(pickle.dumps(found.value))  # as it comes back from a worker
    assert (type(there), str(there)) == (type(found.value), str(found.value))
    assert isinstance(found.value, NoSpaceError) == (name in ("no space", "quota"))


def test_the_table_does_not_import_torch():
    code = "import sys, fmritok.faults; print([m for m in ('torch', 'numpy', " \
           "'fsspec', 'botocore') if m in sys.modules])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "hcp"
    for i in range(3):
        write_run(root, f"10000{i}", frames=2)
    return root


@pytest.fixture
def pair(tree):
    """Return the tree with two runs."""
    shutil.rmtree(tree / "100002")
    return tree


def raising(error, *, at=1):
    """Return a function that raises in its ``at``-th call and all later ones."""
    calls = []

    def wrap(function):
        def call(*arguments, **named):
            calls.append(1)
            if len(calls) >= at:
                raise error
            return function(*arguments, **named)

        return call

    return wrap


MACHINE = {
    "GPU memory": (VaeTokenizer, "encode", torch.OutOfMemoryError("CUDA out of memory."), 2),
    "GPU driver": (VaeTokenizer, "encode", RuntimeError("CUDA error: unspecified launch"), 2),
    "missing weights": (VaeTokenizer, "setup", WeightsError("Weights x: expected some"), 1),
    "no such device": (VaeTokenizer, "setup", AssertionError("Torch not compiled with CUDA"), 1),
    "memory for reading": (VolumeSource, "blocks", MemoryError(), 2),
    "too many open files": (VolumeSource, "blocks", os_error(errno.EMFILE), 2),
    "scratch folder gone": (ScratchArray, "__init__", os_error(errno.ENOENT), 3),
    "scratch folder defective": (ScratchArray, "__setitem__", os_error(errno.EIO), 3),
    "store read-only": (Location, "write", os_error(errno.EROFS), 12),
}


@pytest.mark.parametrize("name", MACHINE)
def test_a_fault_of_the_machine_is_one_error_and_no_run_is_recorded_as_failed(
    name, pair, tmp_path, weights, monkeypatch
):
    kind, method, error, at = MACHINE[name]
    store = tmp_path / "t.zarr"
    task.ready_tokenizer.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(kind, method, raising(error, at=at)(getattr(kind, method)))
        result = tokenize(pair, store, weights)
    assert result.exit_code == 1
    assert result.output.count("\nError: ") == 1, result.output
    assert "Traceback" not in result.output
    assert {r["status"] for r in inspect(store)["runs"]} <= {"planned", "done"}
    assert tokenize(pair, store, weights).exit_code == 0
    assert [r["status"] for r in inspect(store)["runs"]] == ["done"] * 2


def test_a_source_file_that_is_gone_or_unreadable_is_its_run_s_fault(
    tree, tmp_path, weights, monkeypatch
):
    blocks = VolumeSource.blocks

    def spoiled(self):
        for number, subject in ((errno.ENOENT, "100000"), (errno.EIO, "100001")):
            if subject in str(self.path):
                raise os_error(number, str(self.path))
        return blocks(self)

    monkeypatch.setattr(VolumeSource, "blocks", spoiled)
    store = tmp_path / "t.zarr"
    result = tokenize(tree, store, weights)
    assert result.exit_code == 1
    runs = inspect(store)["runs"]
    assert [r["status"] for r in runs] == ["failed", "failed", "done"]
    assert "No such file" in runs[0]["reason"]
    assert "Input/output error" in runs[1]["reason"]


def test_too_many_open_files_while_headers_are_read_is_no_run_s_problem(
    tree, tmp_path, weights, monkeypatch
):
    monkeypatch.setattr(first_bytes, "open_binary", raising(os_error(errno.EMFILE))(None))
    result = tokenize(tree, tmp_path / "t.zarr", weights)
    assert result.exit_code == 1
    assert "ulimit -n" in result.output
    assert not (tmp_path / "t.zarr").exists()


@pytest.mark.parametrize("executor", ["serial", "dask"])
def test_a_scratch_folder_is_checked_before_anything_is_planned(
    executor, tree, tmp_path, weights, monkeypatch
):
    store, missing = tmp_path / "t.zarr", tmp_path / "missing"
    result = tokenize(tree, store, weights, "--scratch", missing, executor=executor)
    assert result.exit_code == 2
    assert f"Scratch folder {missing}: expected a folder that exists" in result.output
    assert "--scratch" in result.output
    monkeypatch.setattr(tempfile, "TemporaryFile", raising(os_error(errno.EACCES))(None))
    result = tokenize(tree, store, weights, "--scratch", tmp_path, executor=executor)
    assert "Permission denied" in result.output
    assert "Plan for" not in result.output
    assert not store.exists()


def test_a_store_without_the_right_to_write_names_the_path_and_what_to_do(
    tree, tmp_path, weights, monkeypatch
):
    store = tmp_path / "t.zarr"
    refused = os_error(errno.EACCES, str(store / "vae"))
    monkeypatch.setattr(Location, "write", raising(refused)(Location.write))
    result = tokenize(tree, store, weights)
    assert result.exit_code == 1
    assert str(store / "vae") in result.output
    assert "Correct the rights" in result.output


def test_a_busy_object_store_is_asked_again_and_then_named(pair, tmp_path, weights, monkeypatch):
    waited, busy = [], [2]
    monkeypatch.setattr(faults.time, "sleep", waited.append)
    write = Location.write

    def sometimes(self, key, data):
        if "/records/" in key and busy[0]:
            busy[0] -= 1
            raise OSError(errno.EBUSY, "Please reduce your request rate (503)")
        write(self, key, data)

    monkeypatch.setattr(Location, "write", sometimes)
    assert tokenize(pair, "memory://busy.zarr", weights).exit_code == 0
    assert waited == [1.0, 5.0]
    waited.clear()
    busy[0] = 1000
    result = tokenize(pair, "memory://down.zarr", weights)
    assert result.exit_code == 1
    assert "Store memory://down.zarr" in result.output
    assert "reduce your request rate (503)" in result.output
    assert len(waited) == 3
    busy[0] = 0
    assert tokenize(pair, "memory://down.zarr", weights).exit_code == 0
    local = tmp_path / "t.zarr"
    assert tokenize(pair, local, weights).exit_code == 0
    remote = Location("memory://down.zarr")
    assert {k: remote.read(k) for k in written(local)} == written(local)
    assert fmritok("verify", "--store", local).exit_code == 0


def test_refused_credentials_are_not_tried_again(monkeypatch):
    calls = []
    monkeypatch.setattr(faults.time, "sleep", pytest.fail)

    def write():
        calls.append(1)
        raise PermissionError("Access Denied")

    with pytest.raises(MachineError, match="Access s3://b/t: expected the right"):
        faults.stored(write, "s3://b/t", "run1")
    assert len(calls) == 1
