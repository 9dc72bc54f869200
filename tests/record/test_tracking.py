"""``fmritok train --wandb``: the figures of TensorBoard in one run of W&B for each training."""

from __future__ import annotations

import sys
import types

import pytest
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.trainer.record.board import Board
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.training.loop import Trainer

SMALL = ["data.window=16", "model.width=16", "model.layers=1", "model.mlp_width=16",
         "train.log_every=2", "train.validate_every=3"]  # fmt: skip


class FakeRun:
    def __init__(self, options):
        self.options, self.rows, self.finished, self.axes = options, [], False, {}

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, row):
        assert not self.finished
        self.rows.append(row)

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    """Install a stand-in for wandb, and return the runs that it is asked for."""
    made = []

    def init(**options):
        made.append(FakeRun(options))
        return made[-1]

    wandb = types.ModuleType("wandb")
    wandb.init, wandb.Settings, wandb.Error = init, dict, type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return made


@pytest.fixture
def train(make_store):
    store = make_store([40, 9, 33], n_tokens=3, dim=4)[0].url
    settings = [x for assignment in SMALL for x in ("--set", assignment)]

    def train(*options, settings=settings):
        fixed = ["--store", store, "--loader-workers", "0", "--device", "cpu"]
        return CliRunner().invoke(main, ["train", *map(str, options), *fixed, *settings])

    return train


def test_wandb_gets_what_tensorboard_gets(train, runs, tmp_path, monkeypatch):
    drawn = set()
    add_scalar = Board.add_scalar

    def add_and_keep(self, name, value, step):
        drawn.add((name, value, step))
        add_scalar(self, name, value, step)

    monkeypatch.setattr(Board, "add_scalar", add_and_keep)
    result = train("--wandb", "--out", tmp_path / "a", "--steps", 5, "--seed", 3)
    assert result.exit_code == 0, result.output
    (run,) = runs
    assert {
        (name, value, row["step"])
        for row in run.rows
        for name, value in row.items()
        if name != "step"
    } == drawn
    assert [row["step"] for row in run.rows if "train/loss" in row] == [2, 4, 5]
    assert [row["step"] for row in run.rows if "validation/loss" in row] == [3, 5]
    last = read_metrics(tmp_path / "a")[-1]
    assert run.rows[-1] == {
        "step": 5, **{f"validation/{k}": v for k, v in last.items() if k not in ("kind", "step")}
    }  # fmt: skip
    assert run.finished
    assert run.axes == {"*": "step"}
    options = run.options
    assert (options["project"], options["name"]) == ("fmritok", "a")
    assert options["dir"] == str(tmp_path / "a")
    assert options["config"]["train"]["seed"] == 3


def test_a_resumed_training_continues_its_wandb_run_and_a_branch_starts_another(
    train, runs, tmp_path, monkeypatch
):
    out, step = tmp_path / "a", Trainer._step

    def die_after_3(self, *arguments):
        if self.position.step == 3:
            raise KeyboardInterrupt
        step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", die_after_3)
        short = ("--steps", 5, "--set", "train.checkpoint_every=2")
        assert train("--out", out, "--wandb", "mine", *short).exit_code == 130
    assert runs[0].finished
    for out_again in (("--out", tmp_path / "b"), ()):
        done = train("--resume", out, "--wandb", "mine", *out_again, settings=[])
        assert done.exit_code == 0, done.output
    first, branch, again = (run.options["id"] for run in runs)
    assert first == again != branch
    assert [run.options["resume"] for run in runs] == ["allow"] * 3
    for run in runs[1:]:
        assert [row["step"] for row in run.rows] == [3, 4, 5, 5]


def test_without_the_option_wandb_is_left_alone(train, runs, tmp_path):
    assert train("--out", tmp_path / "a", "--steps", 2).exit_code == 0
    assert runs == []
    assert not (tmp_path / "a" / "wandb-id").exists()


def test_without_wandb_installed_no_training_starts(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = train("--wandb", "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "--wandb: expected the package wandb" in result.output
    assert "pip install fmritok[wandb]" in result.output
    assert not (tmp_path / "a").exists()


def test_a_wandb_error_has_a_next_step(train, runs, tmp_path, monkeypatch):
    def refuse(**options):
        raise sys.modules["wandb"].Error("No API key configured.")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    result = train("--wandb", "--out", tmp_path / "a")
    assert result.exit_code == 1
    assert "got No API key configured. Log in with `wandb login`" in result.output.replace("\n", "")


def test_a_damaged_wandb_id_is_refused(train, runs, tmp_path):
    (tmp_path / "wandb-id").write_text("")
    result = train("--wandb", "--out", tmp_path, "--steps", 2)
    assert result.exit_code == 1
    assert "Id of the W&B run" in result.output
    assert "or delete it" in result.output.replace("\n", " ")
    assert not runs
