"""A store on S3: written, interrupted, resumed, verified and trained from, over a real server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from multiprocessing import forkserver

import numpy as np
import pytest
from click.testing import CliRunner
from cohorts import write_run

from fmritok.cli import main
from fmritok.errors import StoreError
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import one_writer
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.tokenization import task

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

OPTIONS = ("--tokenizer", "network", "--set", "network.band=null", "--set", "network.tr=null",
           "--executor", "serial")  # fmt: skip


@pytest.fixture(scope="module")
def address():
    """Start an S3 server on loopback, and return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def bucket(address, monkeypatch, request):
    """Make a bucket of the test's own; credentials come from the environment only."""
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    name = re.sub("[^a-z0-9]", "-", request.node.name).strip("-")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(name)
    forkserver._forkserver._stop()  # started by an earlier test, it has no credentials to pass on
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def fmritok(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def tokenize(root, store):
    return fmritok("tokenize", "--dataset", "hcp", "--root", root, "--store", store, *OPTIONS)


@pytest.mark.slow
def test_a_store_on_s3_is_as_good_as_one_on_disk(bucket, tmp_path, monkeypatch):
    root = tmp_path / "hcp"
    for i in range(3):
        write_run(root, f"{100001 + i}", frames=24)
    local = tmp_path / "local.zarr"
    assert tokenize(root, local).exit_code == 0

    # Cut off in the second run, before its record is written.
    store, write, count = f"{bucket}/t.zarr", task.write_record, []

    def cut_off(location, group, record):
        count.append(record)
        if len(count) == 2:
            raise KeyboardInterrupt
        write(location, group, record)

    with monkeypatch.context() as patch:
        patch.setattr(task, "write_record", cut_off)
        result = tokenize(root, store)
    assert result.exit_code == 130
    assert "interrupted; finished runs are kept" in result.output
    assert len(TokenStore(store).group("network").runs) == 1

    result = tokenize(root, store)
    assert result.exit_code == 0, result.output
    assert "Plan for network: 2 runs" in result.output
    here, there = (TokenStore(x).group("network") for x in (local, store))
    assert list(there.runs["run_id"]) == list(here.runs["run_id"])
    for run_id in here.runs["run_id"]:
        np.testing.assert_array_equal(there.values(run_id), here.values(run_id))
    assert list(there.runs["checksum"]) == list(here.runs["checksum"])

    assert fmritok("verify", "--store", store).exit_code == 0
    location = Location(store)
    key = next(k for k in location.find("network/tokens/c"))
    data = bytearray(location.read(key))
    data[len(data) // 3] ^= 1
    location.write(key, bytes(data))
    damaged = fmritok("verify", "--store", store)
    assert damaged.exit_code == 1
    assert "rfMRI_REST1_LR" in damaged.output


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_streams_from_s3(bucket, tmp_path, make_store, workers):
    store = f"{bucket}/train.zarr"
    make_store([40, 40, 40], url=store, subjects=["1", "2", "3"])
    result = fmritok(
        "train", "--store", store, "--recipe", "tiny", "--steps", 2, "--loader-workers", workers,
        "--out", tmp_path / "run", "--set", "data.window=16", "--set", "data.batch_size=2",
        "--set", "model.width=32", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_without_credentials_it_is_one_clear_error(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    result = fmritok("inspect", "--store", f"{bucket}/t.zarr")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "expected a location that answers, got NoCredentialsError" in result.output


def test_one_process_at_a_time_writes_a_group_on_s3(bucket):
    location = Location(f"{bucket}/leased/t.zarr")
    assert location.create("object", b"first")
    assert not location.create("object", b"second")
    assert location.read("object") == b"first"
    with one_writer(location, "vae"):
        with pytest.raises(StoreError, match=f"no other writer, got process {os.getpid()} on"):
            with one_writer(location, "vae"):
                pass
        with one_writer(location, "network"):
            pass
    with one_writer(location, "vae"):
        pass
    assert Location(f"{bucket}/leased").find("") == ["t.zarr/object"]
