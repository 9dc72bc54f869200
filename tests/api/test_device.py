"""One module decides the device: a GPU of the process's own number, or the CPU."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest
import torch

from fmritok.device import (
    Fetch,
    choose_device,
    compiles_by_default,
    count_cores,
    count_gpus,
    fetch,
    peak_memory,
    send,
    visible_gpus,
)
from fmritok.errors import FmritokError
from fmritok.trainer.errors import ConfigError


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)


def test_auto_is_the_gpu_of_the_processs_number(four_gpus, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device() == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_device("auto") == torch.device("cuda:2")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert count_gpus() == 4


@pytest.mark.parametrize(
    ("granted", "seen"),
    [
        (None, ["0", "1", "2", "3"]),
        ("4,5, 6,7", ["4", "5", "6", "7"]),
        ("2,3,0,1,-1,9", ["2", "3", "0", "1"]),
        ("MIG-a,MIG-b,MIG-c", ["MIG-a", "MIG-b", "MIG-c"]),
    ],
)
def test_gpus_have_the_names_that_a_scheduler_granted(four_gpus, monkeypatch, granted, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if granted is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", granted)
    assert visible_gpus() == seen
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus() == []


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # of a driver that is too old
    assert choose_device() == torch.device("cpu")
    assert count_gpus() == 0


def test_a_device_that_torch_cannot_use_is_refused_with_the_callers_error():
    with pytest.raises(FmritokError, match="Option device: expected a device .*got 'abacus'"):
        choose_device("abacus")
    with pytest.raises(ConfigError, match="abacus"):
        choose_device("abacus", error=ConfigError)
    with pytest.raises(FmritokError, match=r"'meta' \(it holds no numbers\)"):
        choose_device("meta")


def test_cores_are_those_that_a_scheduler_granted(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert count_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    assert count_cores() == os.cpu_count()


def test_a_chosen_gpu_is_the_current_one_and_no_other_is_touched(four_gpus, monkeypatch):
    touched = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: touched.append(device))
    monkeypatch.setattr(torch.cuda, "set_device", touched.append)
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device: touched.append(device) or 7
    )
    device = choose_device("cuda:1")
    assert peak_memory(device) == 7
    assert set(touched) == {torch.device("cuda:1")}
    assert len(touched) == 3


def test_a_gpu_without_a_number_is_that_of_the_process(four_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("cuda") == torch.device("cuda:3")


def test_the_memory_of_a_cpu_is_that_of_the_process():
    assert peak_memory(torch.device("cpu")) > 10_000_000


def test_layers_are_compiled_on_a_gpu_that_has_what_it_takes(four_gpus, monkeypatch):
    gpu, has = torch.device("cuda:1"), {"triton", "gcc"}
    monkeypatch.setattr("fmritok.device.find_spec", lambda name: name in has or None)
    monkeypatch.setattr("shutil.which", lambda name: name if name in has else None)
    asked = []
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: asked.append(device) or (9, 0)
    )
    assert compiles_by_default(gpu)
    assert asked == [gpu]
    assert not compiles_by_default(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert not compiles_by_default(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for missing in ("triton", "gcc"):
        has.discard(missing)
        assert not compiles_by_default(gpu)
        has.add(missing)


class Host:
    """A tensor of the host that notes what is done to it."""

    device = torch.device("cpu")

    def __init__(self, done):
        self.done = done

    def contiguous(self):
        self.done.append("contiguous")
        return self

    def pin_memory(self):
        self.done.append("pinned")
        return self

    def to(self, device, non_blocking):
        self.done.append((device, non_blocking))


def test_tensors_are_pinned_for_a_gpu_and_sent_without_waiting(monkeypatch):
    """Pinning uses the current GPU of the thread, which may be another one.

    It fails for expanded tensors, whose rows are one row in memory.
    """
    gpu, done = torch.device("cuda:1"), []

    @contextmanager
    def as_current(device):
        done.append(("begin", device))
        yield
        done.append(("end", device))

    monkeypatch.setattr(torch.cuda, "device", as_current)
    send(Host(done), gpu)
    assert done == [("begin", gpu), "contiguous", "pinned", ("end", gpu), (gpu, True)]
    x = torch.ones(3)
    assert send(x, torch.device("cpu")) is x
    assert torch.equal(fetch(x), x)


class OnGpu:
    """A tensor of a GPU."""

    is_cuda, device, shape, dtype = True, torch.device("cuda:1"), (3,), torch.float32


def test_a_copy_from_a_gpu_is_read_when_it_is_complete(monkeypatch):
    """The copy is in pinned memory, begun on the GPU of the tensor, and waited for."""
    done, ready = [], [False]

    @contextmanager
    def as_current(device):
        done.append(("begin", device))
        yield
        done.append(("end", device))

    class Event:
        record = staticmethod(lambda: done.append("recorded"))
        query = staticmethod(lambda: ready[0])
        synchronize = staticmethod(lambda: done.append("waited"))

    class Pinned:
        copy_ = staticmethod(lambda x, non_blocking: done.append(("copied", non_blocking)))

    monkeypatch.setattr(torch.cuda, "device", as_current)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: Pinned())
    copy = Fetch(OnGpu())
    within = [("begin", OnGpu.device), ("copied", True), "recorded", ("end", OnGpu.device)]
    assert done == within
    assert not copy.is_done
    ready[0] = True
    assert copy.is_done
    assert isinstance(copy.wait(), Pinned)
    assert done == [*within, "waited"]


def test_cuda_without_a_gpu_is_refused_whatever_torch_was_built_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FmritokError, match=r"Option device: .*got 'cuda:0' \(torch finds no GPU\)"):
        choose_device("cuda")
