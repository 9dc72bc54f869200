"""Faults of the machine during a training: one error, the last whole checkpoint as it was."""

from __future__ import annotations

import errno
import itertools
import os
import re
import resource
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from children import in_child
from click.testing import CliRunner
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainers import trainer_on_cpu

from fmritok.cli import main
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.errors import CheckpointError, FmritokError, TrainingError
from fmritok.trainer.faults import losing_others, within_memory, write_whole, writing
from fmritok.trainer.record import checkpoint, loss_curve
from fmritok.trainer.record.board import Board
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import MetricsLog, read_metrics
from fmritok.trainer.training.learner import Learner

SMALL = ["data.window=16", "model.width=16", "model.layers=1", "model.mlp_width=16",
         "train.steps=12", "train.checkpoint_every=4", "train.log_every=2"]  # fmt: skip


@pytest.fixture
def group(make_store):
    return TokenStore(make_store([40, 9, 33], n_tokens=3, dim=4)[0].url).group()


def _trainer(group, out, **options):
    return trainer_on_cpu(SMALL, group, out, **options)


def _command(group, *options):
    settings = [x for assignment in SMALL for x in ("--set", assignment)]
    fixed = ["--store", group.location.url, "--loader-workers", "0", "--device", "cpu"]
    result = CliRunner().invoke(main, ["train", *fixed, *map(str, options), *settings])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def _full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("number", "step"),
    [(errno.ENOSPC, "Free space"), (errno.EDQUOT, "raise the quota"), (errno.EROFS, "writable"),
     (errno.EACCES, "writable"), (errno.ENOENT, "Bring the folder"), (errno.EIO, "Check that")],
)  # fmt: skip
def test_every_refusal_of_a_disk_names_the_path_and_the_next_step(tmp_path, number, step):
    for error in (OSError(number, "no"), SafetensorError(f"I/O error: no (os error {number})")):
        with pytest.raises(CheckpointError, match=rf"It {tmp_path}: .*{step}.* Then\.$"):
            with writing("It", tmp_path, then="Then.", kind=CheckpointError):
                raise error


def test_small_files_are_written_atomically(tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    write_whole(file, "old")
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("config.yaml", "old")]


def _train_until_the_disk_is_full(what, group, out):
    """Train in a child for which the kernel limits files (safetensors hides the errno)."""
    save, calls = TrainingFolder.save, []

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def save_and_limit(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 2 and what == "checkpoint":
            limit(6000)
        saved = save(self, *args, **kwargs)
        if len(calls) == 2 and what == "metrics":
            limit(self.metrics.stat().st_size + 50)
        return saved

    def train():
        TrainingFolder.save = save_and_limit
        told = _command(group, "--out", out)
        limit(resource.RLIM_INFINITY)
        return told

    return in_child(train)


@pytest.mark.parametrize("what", ["checkpoint", "metrics"])
def test_a_full_disk_stops_with_one_error_and_the_training_can_be_resumed(group, tmp_path, what):
    out = tmp_path / "a"
    whole = _trainer(group, tmp_path / "whole").run()
    code, text = _train_until_the_disk_is_full(what, group, out)
    assert code == 1
    assert "Traceback" not in text
    assert text.count("Error:") == 1, text
    assert "File too large" in text
    assert "Free space there, or raise the quota. Then go on with --resume" in text
    step, where = (4, "checkpoints/step-00000008") if what == "checkpoint" else (8, "metrics.jsonl")
    assert str(out / where) in text
    kept = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert kept == [f"step-{n:08d}" for n in range(4, step + 1, 4)]
    assert read_metrics(out)  # whole rows
    again = _trainer(group, out, resume=out).run()
    assert again.figures == whole.figures
    assert [row["loss"] for row in read_metrics(out)] == [
        row["loss"] for row in read_metrics(tmp_path / "whole")
    ]


@pytest.mark.parametrize("broken", ["save_file", "sync_folder", "_put_in_place"])
def test_no_half_written_checkpoint_is_left(group, tmp_path, monkeypatch, broken):
    trainer = _trainer(group, tmp_path)
    real = getattr(checkpoint, broken)

    def fail_later(*args, **kwargs):
        if (tmp_path / "checkpoints" / ".step-00000008.partial").exists():
            _full()
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint, broken, fail_later)
    with pytest.raises(CheckpointError, match=r"step-00000008: .*No space left"):
        trainer.run()
    monkeypatch.undo()
    names = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert names == ["step-00000004"]
    find_checkpoint(tmp_path).load_weights(trainer.model)


def test_a_full_disk_keeps_the_checkpoint_to_be_replaced(tmp_path, monkeypatch):
    old, partial = tmp_path / "step-1", tmp_path / ".step-1.partial"
    old.mkdir()
    partial.mkdir()
    rename = checkpoint.Path.rename
    monkeypatch.setattr(
        checkpoint.Path, "rename", lambda a, b: _full() if a == partial else rename(a, b)
    )
    with pytest.raises(OSError, match="No space"):
        checkpoint._put_in_place(partial, old)
    assert old.exists()


@pytest.mark.parametrize("name", ["config.yaml", "split.json"])
def test_a_full_disk_at_the_start_names_the_file(group, tmp_path, monkeypatch, name):
    def fail(path, text):
        if path.name == name:
            _full()

    monkeypatch.setattr("fmritok.trainer.record.folder.write_whole", fail)
    code, text = _command(group, "--out", tmp_path / "a")
    assert code == 1
    assert f"File {tmp_path / 'a' / name}: expected a writable disk" in text
    assert not (tmp_path / "a").exists(), "not even locked"


def test_a_full_disk_keeps_the_metrics_of_a_resumed_training(group, tmp_path, monkeypatch):
    _trainer(group, tmp_path).run()
    rows = read_metrics(tmp_path)
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(TrainingError, match=r"File .*config\.yaml: .*No space"):
        _trainer(group, tmp_path, resume=tmp_path)
    assert read_metrics(tmp_path) == rows


def test_metrics_on_a_full_disk_end_with_a_whole_row(tmp_path):
    log = MetricsLog(TrainingFolder(tmp_path))
    log.write("train", {"step": 1}, plot=False)

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            return self.file.write(data[:5]) if len(data) > 10 else _full()

    log._file = Full(log._file)
    with pytest.raises(TrainingError, match="No space"):
        log.write("train", {"step": 10**9}, plot=False)
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1}]


def test_a_deleted_folder_is_an_error_and_not_created_again(group, tmp_path, monkeypatch):
    out, learn = tmp_path / "a", Learner.learn

    def delete(self, batch, step, *, measure):
        if step == 5:
            shutil.rmtree(out)
        return learn(self, batch, step, measure=measure)

    monkeypatch.setattr(Learner, "learn", delete)
    code, text = _command(group, "--out", out)
    assert code == 1
    assert f"Metrics {out}/metrics.jsonl: " in text
    assert "Bring the folder or its disk back." in text
    assert not out.exists()


def test_training_continues_without_tensorboard(group, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fmritok.trainer.record.board.RecordWriter.write", _full)
    code, _ = _command(group, "--out", tmp_path / "a")
    assert code == 0
    assert sum("without TensorBoard" in r.message for r in caplog.records) == 1
    assert len(read_metrics(tmp_path / "a")) == 13


def test_a_failing_tensorboard_is_reported_once(tmp_path, monkeypatch, caplog):
    log = MetricsLog(TrainingFolder(tmp_path))
    log.write("train", {"step": 1, "loss": 1.0})
    monkeypatch.setattr("fmritok.trainer.record.board.RecordWriter.write", _full)
    for step in (2, 3):
        log.write("train", {"step": step, "loss": 1.0})
    log.close()
    said = [r.message for r in caplog.records if "TensorBoard" in r.message]
    assert len(said) == 1
    assert said[0].startswith("Training goes on without TensorBoard")
    assert "No space left" in said[0]
    assert len(read_metrics(tmp_path)) == 3


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, monkeypatch):
    """In one second of one process, too."""
    monkeypatch.setattr("fmritok.trainer.record.board._count", itertools.count(9))
    monkeypatch.setattr("fmritok.trainer.record.board.time", SimpleNamespace(time=lambda: 1.8e9))
    for first_step, values in ((1, (1.0, 2.0, 3.0)), (3, (30.0, 40.0))):
        board = Board(tmp_path, first_step=first_step)
        for i, value in enumerate(values):
            board.add_scalar("train/loss", value, first_step + i)
        board.close()
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    points = [(one.step, one.value) for one in shown.Scalars("train/loss")]
    assert points == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_a_failing_wandb_is_reported_once(tmp_path, caplog):
    class Broken:
        calls = 0

        def write(self, kind, row):
            Broken.calls += 1
            raise ConnectionError("W&B is down")

    log = MetricsLog(TrainingFolder(tmp_path), wandb=Broken())
    for step in (1, 2):
        log.write("train", {"step": step, "loss": 1.0})
    log.close()
    assert Broken.calls == 1
    assert [r.message for r in caplog.records] == ["Training goes on without W&B: W&B is down"]


@pytest.mark.loss_curve
def test_training_succeeds_without_a_loss_picture(group, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loss_curve, "read_metrics", _full)
    summary = _trainer(group, tmp_path).run()
    assert summary.picture is None
    assert summary.checkpoint.name == "step-00000012"
    assert "Training goes on without" in caplog.text
    assert "loss.png" in caplog.text


def _no_memory():
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "fault",
    [_no_memory, lambda: (_ for _ in ()).throw(MemoryError()),
     lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried"))],
)  # fmt: skip
def test_missing_memory_is_an_error_with_the_options_to_change(group, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(Learner, "learn", lambda *_, **__: fault())
    code, text = _command(group, "--out", tmp_path / "a")
    assert code == 1
    assert "Memory of cpu: expected enough memory, got" in text
    for option in ("data.batch_size", "data.window", "train.accumulate", "model.checkpointing"):
        assert option in text
    assert "Traceback" not in text


def test_other_errors_are_not_reported_as_missing_memory_or_processes():
    for error in (RuntimeError("shapes differ"), ValueError("no")):
        with pytest.raises(type(error), match=str(error)) as caught:
            with losing_others("here", 2), within_memory("cpu", ""):
                raise error
        assert not isinstance(caught.value, FmritokError)
    with pytest.raises(TrainingError, match="Another process ended"):
        with losing_others("here", 2):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]")


# One process cannot write: the other one must not wait for it.
OF_TWO = """
import errno, os, sys
from fmritok.cli import main
import fmritok.trainer.training.loop as loop
from fmritok.trainer.record import checkpoint
from fmritok.trainer.record.metrics import MetricsLog

def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

if sys.argv[1] == "checkpoint":
    checkpoint.save_file = full
else:
    MetricsLog._append = full
main(sys.argv[2:])
"""


@pytest.mark.parametrize("what", ["checkpoint", "metrics"])
@pytest.mark.slow
def test_several_processes_stop_when_the_first_cannot_write(group, tmp_path, what):
    script = tmp_path / "of_two.py"
    script.write_text(OF_TWO)
    settings = [x for assignment in SMALL for x in ("--set", assignment)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(script), what, "train", "--store", group.location.url, "--loader-workers", "0",
               "--device", "cpu", "--out", str(tmp_path / "a"), *settings]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("No space left on device") == 1, done.stderr
    assert "trainer/training/loop.py" not in done.stderr
