"""Training: repeats itself exactly, goes on exactly, learns what can be learned, stops cleanly."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from trainers import trainer_on_cpu

from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.errors import CheckpointError, StoppedError, TrainingError
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.training.learner import Learner
from fmritok.trainer.training.loop import Trainer
from fmritok.trainer.training.step import Step

SMALL = [
    "data.window=16", "data.windows_per_run=5", "data.batch_size=3", "data.validation_fraction=0.3",
    "model.width=16", "model.layers=1", "model.mlp_width=16", "train.steps=30",
    "train.validate_every=10", "train.checkpoint_every=7", "train.log_every=5",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def group(make_store):
    location, _ = make_store([40, 9, 33, 50, 16, 20], n_tokens=4, dim=6)
    return TokenStore(location.url).group()


def _trainer(group, out, *overrides, **options):
    return trainer_on_cpu([*SMALL, *overrides], group, out, **options)


def _figures(out):
    """Return all that must repeat itself: not the speed, not the memory."""
    varying = {"tokens_per_s", "stall_share", "memory_bytes"}
    return [{k: v for k, v in row.items() if k not in varying} for row in read_metrics(out)]


@pytest.mark.loss_curve
def test_two_trainings_of_one_seed_are_equal_and_of_two_seeds_are_not(group, tmp_path):
    summary = _trainer(group, tmp_path / "a").run()
    _trainer(group, tmp_path / "b").run()
    _trainer(group, tmp_path / "c", "train.seed=1").run()
    rows = _figures(tmp_path / "a")
    assert rows == _figures(tmp_path / "b")
    assert rows != _figures(tmp_path / "c")
    assert [r["step"] for r in rows if r["kind"] == "train"] == list(range(1, 31))
    assert [r["step"] for r in rows if r["kind"] == "validation"] == [10, 20, 30]
    assert {r["step"] for r in rows if "residual_loss" in r} == {5, 10, 15, 20, 25, 30}
    assert summary.validated
    assert summary.figures["loss"] == rows[-1]["loss"]
    assert summary.picture.read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    assert [p.name for p in TrainingFolder(tmp_path / "a").checkpoints()] == [
        "step-00000028",
        "step-00000030",
    ]


def test_a_stopped_training_resumes_exactly(group, tmp_path, monkeypatch):
    """Stop after every few steps, also in mid-epoch and where validation is due."""
    _trainer(group, tmp_path / "whole").run()
    out, resume, stops = tmp_path / "parts", None, iter([4, 10, 11, 25])
    step = Trainer._step

    def step_and_stop(self, *arguments):
        step(self, *arguments)
        if self.position.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    for stop in stops:
        trainer = _trainer(group, out, resume=resume)
        with pytest.raises(StoppedError, match=f"got SIGTERM after step {stop}.*--resume {out}"):
            trainer.run()
        resume = find_checkpoint(out)
        assert resume.step == stop
    stop = None
    summary = _trainer(group, out, resume=resume).run()
    assert _figures(out) == _figures(tmp_path / "whole")
    weights = [(find_checkpoint(p).folder / "model.safetensors").read_bytes()
               for p in (out, tmp_path / "whole")]  # fmt: skip
    assert weights[0] == weights[1]
    again = _trainer(group, out, resume=out).run()
    assert again.figures == summary.figures
    assert _figures(out) == _figures(tmp_path / "whole")


def test_a_training_stopped_in_its_last_validation_is_not_finished(group, tmp_path, monkeypatch):
    _trainer(group, tmp_path / "whole").run()
    evaluate = Learner.evaluate

    def evaluate_and_stop(self, batches, stopped):
        if stop_now:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, batches, stopped)

    monkeypatch.setattr(Learner, "evaluate", evaluate_and_stop)
    out, stop_now = tmp_path / "stopped", False
    trainer = _trainer(group, out, "train.validate_every=30")
    stop_now = True
    with pytest.raises(StoppedError, match="got SIGTERM after step 30"):
        trainer.run()
    stop_now = False
    resumed = _trainer(group, out, "train.validate_every=30", resume=out)
    assert resumed.run().figures["loss"] == _figures(tmp_path / "whole")[-1]["loss"]


def _in_a_process(group, out, *options):
    """Start ``fmritok train`` in a process of its own: nothing was computed in it before."""
    command = [sys.executable, "-m", "fmritok.cli", "train", "--out", str(out),
               "--store", group.location.url, "--recipe", "tiny", "--device", "cpu",
               *options]  # fmt: skip
    steps = ["train.steps=160", "train.checkpoint_every=20", "train.validate_every=40"]
    for assignment in [*SMALL, *steps]:
        command += ["--set", assignment]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_killed_trainings_resume_exactly_with_0_and_2_workers(group, tmp_path):
    assert _in_a_process(group, tmp_path / "whole", "--loader-workers", "0").wait() == 0
    whole = _figures(tmp_path / "whole")
    for workers, later_workers in (("0", "2"), ("2", "0")):
        out = tmp_path / f"killed-{workers}"
        process = _in_a_process(group, out, "--loader-workers", workers)
        metrics = out / "metrics.jsonl"
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 33:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        helpers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        psutil.wait_procs(helpers)  # no worker outlives the trainer
        checkpoint = find_checkpoint(out)
        assert checkpoint.step < len(metrics.read_bytes().splitlines())
        resumed = _in_a_process(group, out, "--loader-workers", later_workers, "--resume", str(out))
        assert resumed.wait() == 0
        assert _figures(out) == whole


def test_a_branched_training_keeps_the_earlier_metrics(group, tmp_path):
    _trainer(group, tmp_path / "a").run()
    early = TrainingFolder(tmp_path / "a").checkpoints()[0]
    with pytest.raises(CheckpointError, match=r"expected the latest of .* branch off .* --out"):
        _trainer(group, tmp_path / "a", resume=early)
    _trainer(group, tmp_path / "b", resume=early).run()
    assert _figures(tmp_path / "b") == _figures(tmp_path / "a")


def test_a_training_with_dropout_goes_on_exactly_and_is_validated_without(group, tmp_path):
    dropout = ["model.input_dropout=0.2", "model.mlp_dropout=0.2", "model.attention_dropout=0.2",
               "model.drop_path=0.3", "model.layers=2"]  # fmt: skip
    trainer = _trainer(group, tmp_path / "a", *dropout)
    modes = []
    trainer.model.register_forward_pre_hook(lambda model, _: modes.append(model.training))
    trainer.run()
    assert modes.count(True) == 30
    assert modes.count(False) >= 3
    early = TrainingFolder(tmp_path / "a").checkpoints()[0]
    _trainer(group, tmp_path / "b", *dropout, resume=early).run()
    assert _figures(tmp_path / "b") == _figures(tmp_path / "a")
    _trainer(group, tmp_path / "c", "model.layers=2").run()
    assert _figures(tmp_path / "c") != _figures(tmp_path / "a")


def test_a_training_on_stretched_windows_goes_on_exactly_and_is_validated_on_others(
    group, tmp_path
):
    stretched = ["data.tr_scale=0.8"]
    trainer = _trainer(group, tmp_path / "a", *stretched)
    seen = {True: [], False: []}
    trainer.model.register_forward_pre_hook(
        lambda model, batch: seen[model.training].append(batch[0])
    )
    trainer.run()
    assert {batch.tokens.shape[1] for batches in seen.values() for batch in batches} == {16}
    own = [batch.times[:, 1] for batch in seen[True]]
    assert len(torch.cat(own).unique()) > 5, "TRs"
    assert all(len(batch.times[:, 1].unique()) == 1 for batch in seen[False])
    early = TrainingFolder(tmp_path / "a").checkpoints()[0]
    _trainer(group, tmp_path / "b", *stretched, resume=early).run()
    assert _figures(tmp_path / "b") == _figures(tmp_path / "a")


def test_resuming_with_other_options_or_tokens_is_refused_by_name(group, tmp_path, make_store):
    _trainer(group, tmp_path / "a").run()
    checkpoint = find_checkpoint(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"expected model\.width = 16 .* got 32.*--init-from"):
        _trainer(group, tmp_path / "a", "model.width=32", resume=checkpoint)
    other = TokenStore(group.location.url).group()
    other.contract = {**group.contract, "provenance": {"tokenizer": "other"}}
    with pytest.raises(CheckpointError, match=r"provenance\.tokenizer = 'vae'.*got 'other'"):
        _trainer(other, tmp_path / "a", resume=checkpoint)


def test_a_grown_store_does_not_change_a_resumed_training(group, tmp_path):
    _trainer(group, tmp_path / "whole").run()
    checkpoint = TrainingFolder(tmp_path / "whole").checkpoints()[0]
    split = json.loads((tmp_path / "whole" / "split.json").read_text())
    more = group.runs.iloc[[0]].assign(run_id="demo_999_run9", subject="999", family="F999")
    group.runs = pd.concat([group.runs.iloc[::-1], more], ignore_index=True)
    _trainer(group, tmp_path / "grown", resume=checkpoint).run()
    assert json.loads((tmp_path / "grown" / "split.json").read_text()) == split
    assert _figures(tmp_path / "grown") == _figures(tmp_path / "whole")


def test_init_from_takes_weights_only(group, tmp_path):
    _trainer(group, tmp_path / "a").run()
    trainer = _trainer(group, tmp_path / "b", "optim.lr=0.1", init_from=tmp_path / "a")
    old = _trainer(group, tmp_path / "c", init_from=tmp_path / "a").model
    assert trainer.position.step == 0
    for a, b in zip(trainer.model.parameters(), old.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_loss_that_is_not_a_number_stops_and_names_the_runs(
    group, tmp_path, monkeypatch, is_behind
):
    """No checkpoint is made of it, also if the next step was begun before the loss was read."""
    monkeypatch.setattr(Step, "is_behind", is_behind)
    trainer = _trainer(group, tmp_path, "train.checkpoint_every=2")
    poisoned = str(trainer.index.run_id[0])
    row, statistics = int(group.run(poisoned)["row"]), TokenGroup.statistics

    def poison(self, of_row):
        found = statistics(self, of_row)
        return replace(found, mean=found.mean * np.nan) if of_row == row else found

    monkeypatch.setattr(TokenGroup, "statistics", poison)
    with pytest.raises(TrainingError, match=rf"on the runs .*{poisoned}.*got loss nan"):
        trainer.run()
    steps = [row["step"] for row in read_metrics(tmp_path)]
    assert len(steps) < 8
    for saved in (tmp_path / "checkpoints").glob("*/model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(saved).values())
        assert f"{steps[-1] // 2 * 2:08}" in str(saved)


def test_figures_that_are_read_a_step_later_are_the_same(group, tmp_path, monkeypatch):
    _trainer(group, tmp_path / "at_once").run()
    monkeypatch.setattr(Step, "is_behind", True)
    _trainer(group, tmp_path / "later").run()
    assert _figures(tmp_path / "at_once") == _figures(tmp_path / "later")
    at_once, later = (
        (find_checkpoint(tmp_path / name).folder / "model.safetensors").read_bytes()
        for name in ("at_once", "later")
    )
    assert at_once == later


def test_one_subject_trains_without_validation_and_says_so(make_store, tmp_path, caplog):
    location, _ = make_store([40], n_tokens=3, dim=4)
    with caplog.at_level(logging.WARNING):
        summary = _trainer(TokenStore(location.url).group(), tmp_path, "train.steps=3").run()
    assert "WITHOUT validation: the store has a single subject" in caplog.text
    assert not summary.validated
    assert summary.figures["residual_loss"] > 0


def test_stores_are_mixed_by_weight_and_windows_share_reads(make_store, tmp_path, monkeypatch):
    groups = []
    for i, lengths in enumerate(([40, 33], [50, 20, 30])):
        subjects = [f"{i}{j}" for j in range(len(lengths))]
        url = str(tmp_path / f"{i}.zarr")
        make_store(lengths, n_tokens=4, dim=6, url=url, subjects=subjects, seed=i)
        groups.append(TokenStore(url).group())
    seen, learn = [], Learner.learn

    def keep(self, batch, step, *, measure):
        seen.extend(batch.runs.tolist())
        return learn(self, batch, step, measure=measure)

    monkeypatch.setattr(Learner, "learn", keep)
    options = ["data.windows_per_run=8", "data.windows_per_read=2", "data.validation_fraction=0"]
    trainer = _trainer(MixedGroup(groups, [3, 1]), tmp_path / "a", *options, "data.batch_size=4")
    assert trainer.run().step == 30
    stores = trainer.index.store[np.array(seen[:40])]
    assert np.bincount(stores).tolist() == [30, 10]
    assert seen[0] == seen[1]


def test_an_empty_group_is_refused(group, tmp_path):
    group.runs = group.runs.iloc[:0]
    with pytest.raises(TrainingError, match="expected at least one finished run, got none"):
        _trainer(group, tmp_path)


@pytest.mark.parametrize("form", [pytest.param("both", marks=pytest.mark.slow), "residual"])
def test_cells_that_share_a_signal_are_predicted_from_each_other(make_store, tmp_path, form):
    """In held-out subjects, with other anatomies."""
    mixing = np.random.default_rng(0).standard_normal((3, 6 * 8))

    def values(i, n):
        generator = np.random.default_rng(i)
        signals = generator.standard_normal((n, 3))
        noise = 0.3 * generator.standard_normal((n, 6 * 8))
        anatomy = 1 + 0.1 * generator.standard_normal(6 * 8)
        return (anatomy + 0.1 * (signals @ mixing + noise)).reshape(n, 6, 8)

    location, _ = make_store([64] * 8, n_tokens=6, dim=8, values=values)
    options = ["data.window=16", "data.batch_size=8", "model.width=32", "model.mlp_width=64",
               "train.steps=250", "train.validate_every=125", f"model.input={form}",
               "optim.lr=0.005"]  # fmt: skip
    summary = _trainer(TokenStore(location.url).group(), tmp_path, *options).run()
    figures = summary.figures
    assert figures["residual_loss"] < 0.75 * figures["residual_loss_mean_token"]
    assert figures["loss"] < 0.75 * figures["loss_mean_token"]
