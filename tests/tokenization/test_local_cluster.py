"""Workers of this machine's cluster: each has a GPU of its own, by its environment."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from fmritok.pipeline.tokenization import local_cluster
from fmritok.pipeline.tokenization.job import GroupJob, Job
from fmritok.pipeline.tokenization.local_cluster import default_workers, started_here, worker_gpus


def job(**options) -> Job:
    return Job("t.zarr", {"vae": GroupJob("vae", json.dumps(options), "int8")})


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(local_cluster, "visible_gpus", lambda: ["3", "MIG-b"])


def test_workers_get_one_gpu_each_and_share_them_if_there_are_more(two_gpus):
    assert worker_gpus(job(), 2) == ["3", "MIG-b"]
    assert worker_gpus(job(device="auto"), 3) == ["3", "MIG-b", "3"]
    assert worker_gpus(job(device="cuda"), 1) == ["3"]


def test_two_workers_share_a_gpu_if_there_is_memory_for_them(two_gpus, monkeypatch):
    """One reads or writes while the other encodes."""
    memory = 64e9
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=memory, total=64e9)
    )
    assert default_workers() == 4
    assert worker_gpus(job(), 4) == ["3", "MIG-b", "3", "MIG-b"]
    memory = 5e9
    assert default_workers() == 2  # each GPU has one
    monkeypatch.setattr(local_cluster, "visible_gpus", list)
    assert default_workers() == 1


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_the_user_named_is_left_alone(two_gpus, device):
    assert worker_gpus(job(device=device), 2) == []


def test_without_a_gpu_the_environment_is_left_alone(monkeypatch):
    monkeypatch.setattr(local_cluster, "visible_gpus", list)
    assert worker_gpus(job(), 2) == []


def test_each_worker_process_sees_its_own_gpu(monkeypatch):
    from distributed import Client

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # it goes before Dask's settings

    def seen() -> tuple[str | None, str]:  # nested: pickled by value, workers cannot import tests
        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"]

    with started_here(2, 3, gpus=["3", "MIG-b"]) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=120)
        assert sorted(client.run(seen).values()) == [("3", "3"), ("MIG-b", "3")]
