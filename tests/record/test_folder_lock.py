"""A folder of a training is one training's, until it ends in whatever way."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from children import ChildError, in_child, running_child
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.pipeline.store.locks import lock_file
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics

SMALL = ["data.window=16", "model.width=16", "model.layers=1", "model.mlp_width=16",
         "train.checkpoint_every=5"]  # fmt: skip


@pytest.fixture
def store(make_store):
    return make_store([40, 9, 33], n_tokens=3, dim=4)[0].url


def _options(store, *options):
    settings = [x for assignment in SMALL for x in ("--set", assignment)]
    fixed = ["--store", store, "--loader-workers", "0", "--device", "cpu"]
    return ["train", *fixed, *map(str, options), *settings]


def _train(store, *options):
    result = CliRunner().invoke(main, _options(store, *options))
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def _hold(folder):
    held = TrainingFolder(folder)
    held.hold()
    return held


@pytest.fixture
def running(store, tmp_path):
    """Start a training that does not end by itself, and wait for its first checkpoint."""
    out = tmp_path / "a"
    with running_child(lambda: _train(store, "--out", out, "--steps", 1_000_000)) as pid:
        while not list((out / "checkpoints").glob("step-*")):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.02)
        yield pid, out


def test_a_second_training_is_refused_by_name_and_the_first_is_left_alone(running, store, tmp_path):
    pid, out = running
    other_name = tmp_path / "link"
    other_name.symlink_to(out)
    before = {p.name: p.stat().st_ino for p in out.iterdir()}
    since = time.strftime("%Y-")
    for options in (("--out", out), ("--out", other_name), ("--resume", out)):
        code, text = _train(store, *options)
        assert code == 1
        assert f"Folder of the training {out}: expected one training at a time" in text
        assert f"process {pid} on {socket.gethostname()} at work since {since}" in text
        assert "Wait for it, stop it, or choose another folder with --out." in text
    assert {p.name: p.stat().st_ino for p in out.iterdir()} == before
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    steps = [row["step"] for row in read_metrics(out) if row["kind"] == "train"]
    assert steps == [*range(1, len(steps) + 1)]
    assert not (out / ".lock").exists()


def test_a_process_that_dies_leaves_its_folder_free(tmp_path):
    with pytest.raises(ChildError, match="it died"):
        in_child(lambda: _hold(tmp_path) and os._exit(1))
    assert (tmp_path / ".lock").exists()
    _hold(tmp_path).release()
    assert not (tmp_path / ".lock").exists()


def test_an_unused_new_folder_is_removed(tmp_path):
    lock = _hold(tmp_path / "a" / "b")
    lock.release()
    lock.release()
    assert not (tmp_path / "a" / "b").exists()
    _hold(tmp_path).release()
    assert tmp_path.exists()


def test_an_out_that_is_a_file_or_below_one_is_refused(store, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    code, text = _train(store, "--out", file)
    assert code == 1
    assert "expected a folder or a new path, got a file. Choose another one with --out." in text
    code, text = _train(store, "--out", file / "below")
    assert code == 1
    assert "Not a directory" in text
    assert "choose another one with --out" in text
    assert file.read_text() == "mine"


@pytest.mark.parametrize("number", [13, 30])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(lock_file.FileLock, "acquire", refuse)
    with pytest.raises(TrainingError, match=r"Make it writable\. Or choose another one with --out"):
        _hold(tmp_path)


@pytest.mark.slow
def test_torchrun_stops_all_processes_with_one_error(store, tmp_path):
    lock = _hold(tmp_path / "a")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "--module", "fmritok.cli",
               *_options(store, "--out", tmp_path / "a")]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True)  # fmt: skip
    lock.release()
    assert done.returncode != 0
    said = done.stderr.split("ChildFailedError")[0]
    assert said.count("Error: Folder of the training") == 1
    assert "fmritok/trainer" not in done.stderr  # no traceback of ours
    assert not list(tmp_path.glob("a/*"))
