"""One module decides the device: a GPU of the process's own number, or the CPU."""

from __future__ import annotations

import os

import pytest
import torch

from fmritok.device import choose_device, count_cores, count_gpus, visible_gpus
from fmritok.errors import FmritokError
from fmritok.trainer.errors import ConfigError


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)


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
    with pytest.raises(FmritokError, match="--device: expected a device .*got 'abacus'"):
        choose_device("abacus")
    with pytest.raises(ConfigError, match="abacus"):
        choose_device("abacus", error=ConfigError)


def test_cores_are_those_that_a_scheduler_granted(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert count_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    assert count_cores() == os.cpu_count()
