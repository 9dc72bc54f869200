"""Stopped fine-tunings go on to the same bits; nothing of the tested units is learned from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import a_demo_task, fine_tuned, planted_store, small_training
from safetensors.torch import load_file
from tiny import fmritok

from fmritok.trainer.data.drawing import all_windows
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.errors import CheckpointError, StoppedError, TrainingError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.finetuning import engine, fold, job
from fmritok.trainer.finetuning.fold import FoldTraining
from fmritok.trainer.finetuning.kept import read_classifier
from fmritok.trainer.finetuning.unit_windows import UnitWindows
from fmritok.trainer.training.learner import Learner


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return planted_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def training(store, tmp_path_factory):
    return small_training(store, tmp_path_factory.mktemp("training") / "t")


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


def _scores(results, row=1):
    return [one.scores for one in results.rows[row].predictions]


class Killed(BaseException):
    """Stands for a process that is gone."""


def _dying_after(monkeypatch, steps):
    """Let a process die in the middle of a step."""
    learn, done = Learner.learn, []

    def learn_or_die(learner, *args, **options):
        if len(done) == steps:
            raise Killed
        done.append(1)
        return learn(learner, *args, **options)

    monkeypatch.setattr(Learner, "learn", learn_or_die)


@pytest.mark.parametrize("weights", ["all", "lora"])
def test_a_killed_fine_tuning_goes_on_to_the_same_bits(
    weights, store, training, tmp_path, monkeypatch
):
    """Killed in the second epoch of the second fold, after the checkpoint of the first epoch."""
    if weights == "lora":
        pytest.importorskip("peft")
    options = ["data.batch_size=4", f"weights.train={weights}", "weights.dropout=0.1",
               "loss.mixup=0.2"]  # fmt: skip
    whole = fine_tuned(store, tmp_path / "whole", *options, source=training)
    monkeypatch.setattr(fold, "SAVE_EVERY_S", 0.0)
    with monkeypatch.context() as patched:
        _dying_after(patched, 3 * 3 + 4)
        with pytest.raises(Killed):
            fine_tuned(store, tmp_path / "killed", *options, source=training)
    out = tmp_path / "killed"
    assert [file.name for file in (out / "folds").iterdir()] == ["finetune-seed0-fold0.json"]
    (checkpoint,) = out.glob("unfinished/finetune-seed0-fold1/checkpoints/step-*")
    assert checkpoint.name == "step-00000003"
    steps = []
    learn = Learner.learn

    def counted(learner, batch, step, **more):
        steps.append(step)
        return learn(learner, batch, step, **more)

    monkeypatch.setattr(Learner, "learn", counted)
    torch.manual_seed(12345)  # another process has another state
    rest = fine_tuned(store, out, *options, source=training)
    assert steps == [3, 4, 5, 6, 7, 8]
    for one, other in zip(_scores(whole), _scores(rest), strict=True):
        np.testing.assert_array_equal(one, other)
    curves = [(folder / "curves/finetune-seed0-fold1.jsonl").read_text()
              for folder in (tmp_path / "whole", out)]  # fmt: skip
    assert curves[0] == curves[1]
    assert not (out / "unfinished").exists()


def test_a_signal_saves_in_the_middle_of_an_epoch(store, training, tmp_path, monkeypatch):
    options = ["data.batch_size=4"]
    whole = fine_tuned(store, tmp_path / "whole", *options, source=training)
    learn = Learner.learn

    def signalled(learner, batch, step, **more):
        stop.signal = "SIGTERM" if step == 4 else None
        return learn(learner, batch, step, **more)

    class Request(engine.StopRequest):
        def __enter__(self):
            nonlocal stop
            stop = self
            return self

    stop = None
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", signalled)
        patched.setattr(engine, "StopRequest", Request)
        with pytest.raises(StoppedError, match="run the same command again"):
            fine_tuned(store, tmp_path / "stopped", *options, source=training)
    rest = fine_tuned(store, tmp_path / "stopped", *options, source=training)
    for one, other in zip(_scores(whole), _scores(rest), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_options_in_the_same_folder_begin_anew(store, training, tmp_path, monkeypatch):
    def trained(*assignments):
        begun = []
        monkeypatch.setattr(
            FoldTraining, "run", lambda self, stop: begun.append(1) or run(self, stop)
        )
        fine_tuned(store, tmp_path, *assignments, source=training, keep_weights=True)
        return len(begun)

    run = FoldTraining.run
    assert [trained(), trained(), trained("optim.lr=1e-3")] == [2, 0, 2]
    (tmp_path / "weights/finetune-seed0-fold1.safetensors").unlink()
    assert trained("optim.lr=1e-3") == 1
    file = tmp_path / "folds/finetune-seed0-fold0.json"
    file.write_text(file.read_text().replace("0.", "0.1", 1))
    assert trained("optim.lr=1e-3") == 1


def test_labels_of_tested_units_do_not_change_their_predictions(
    store, training, tmp_path, monkeypatch
):
    task = a_demo_task("demo-age")
    whole = fine_tuned(store, tmp_path / "a", task=task, source=training)
    (first, *_) = whole.rows[1].predictions
    changed = {whole.units.ids[unit] for unit in first.test}
    units_of = engine.units_of

    def other_labels(*args, **options):
        units = units_of(*args, **options)
        mine = np.isin(units.ids, list(changed))
        units.labels.values[mine] *= -100
        return units

    monkeypatch.setattr(engine, "units_of", other_labels)
    again = fine_tuned(store, tmp_path / "b", task=task, source=training)
    np.testing.assert_array_equal(again.rows[1].predictions[0].scores, first.scores)
    assert np.abs(_scores(again)[1] - _scores(whole)[1]).max() > 1


def test_the_head_alone_leaves_the_bits_of_the_encoder(store, training, tmp_path):
    before = load_frozen(training).encoder.state_dict()
    for weights, same in (("head", True), ("all", False)):
        fine_tuned(store, tmp_path / weights, f"weights.train={weights}", source=training,
                   keep_weights=True)  # fmt: skip
        after = load_file(tmp_path / weights / "weights/finetune-seed0-fold0.safetensors")
        assert {name for name in after if not name.startswith("head.")} == {
            f"encoder.{name}" for name in before
        }
        equal = [torch.equal(value, after[f"encoder.{name}"]) for name, value in before.items()]
        assert all(equal) == same


def test_kept_weights_predict_what_was_predicted(store, training, tmp_path):
    results = fine_tuned(store, tmp_path, task=a_demo_task("demo-age"), source=training,
                         keep_weights=True)  # fmt: skip
    group = engine.TokenStore(store).group("network")
    kept = read_classifier(tmp_path / "weights/finetune-seed0-fold1.safetensors", group)
    assert (kept.target, kept.classes, kept.window) == ("age", (), 20)
    prediction = results.rows[1].predictions[1]
    index = RunIndex.of(group.runs, [f"demo_{results.units.ids[prediction.test[0]][5:]}_0"])
    requests = list(all_windows(index, window=20).batches(9))
    (batch,) = WindowReader(group, index).loader(requests, workers=0)
    with torch.no_grad():
        found = kept.mean + kept.sd * kept.model.outputs(batch).mean().item()
    assert found == pytest.approx(prediction.scores[0, 0], rel=1e-5)
    with pytest.raises(CheckpointError, match="a file of `fmritok finetune --keep-weights`"):
        read_classifier(training / "checkpoints/step-00000004/model.safetensors", group)


def test_windows_of_test_units_are_fixed_and_do_not_overlap(store, training, tmp_path):
    seen = []
    fixed = UnitWindows.fixed

    def spy(self, side):
        seen.append(fixed(self, side))
        return seen[-1]

    UnitWindows.fixed = spy
    try:
        fine_tuned(store, tmp_path / "a", "train.epochs=1", source=training)
        fine_tuned(store, tmp_path / "b", "train.epochs=1", "data.test_windows=3", source=training)
    finally:
        UnitWindows.fixed = fixed
    test, _, _, _, three = *seen[1:2], 0, 0, 0, seen[-1]
    assert test.first.tolist() == [0, 20] * 16
    assert set(test.n_frames.tolist()) == {20}
    assert three.first.tolist() == [0, 10, 20] * 16


def test_training_windows_follow_from_the_fold_and_the_epoch(store):
    opened = engine.TokenStore(store)
    group = opened.group("network")
    units = engine.units_of(a_demo_task(), group.runs, opened.phenotypes)
    config = replace(engine.FinetuneConfig().data, window=20, windows_per_run=2)
    windows = UnitWindows.of(group, units, config)
    side = np.arange(len(units)) < 10
    one, again, later, other = (
        windows.training(side, key=key, epoch=epoch)
        for key, epoch in (((0, 1), 0), ((0, 1), 0), ((0, 1), 1), ((0, 2), 0))
    )
    assert np.array_equal(one.first, again.first)
    assert not np.array_equal(one.first, later.first)
    assert not np.array_equal(one.first, other.first)
    assert sorted(one.label.tolist()) == sorted([*range(10), *range(10)])
    ids = windows.index.run_id[one.run]
    assert [f"demo/{name.split('_')[1]}" for name in ids] == units.ids[one.label].tolist()


def test_a_loss_that_is_no_number_names_the_runs(store, training, tmp_path, monkeypatch):
    class Broken(job.Classifier):
        def outputs(self, batch, *more):
            return super().outputs(batch, *more) * float("nan")

    monkeypatch.setattr(job, "Classifier", Broken)
    with pytest.raises(TrainingError, match=r"Loss of finetune-seed0-fold0 on the runs demo_1"):
        fine_tuned(store, tmp_path, source=training)


def test_the_epoch_is_chosen_on_validation_and_patience_ends_a_fold(
    store, training, tmp_path, monkeypatch
):
    predicted, predict = [], FoldTraining._predict

    def spy(self, side):
        if side is self.job.fold.test:
            now = self.model.state_dict()
            same = all(torch.equal(now[name], value) for name, value in self.best.items())
            predicted.append((self.course.epoch - self.course.best, same))
        return predict(self, side)

    monkeypatch.setattr(FoldTraining, "_predict", spy)
    fine_tuned(store, tmp_path, "train.epochs=12", "train.patience=2", "optim.lr=3e-2",
               source=training)  # fmt: skip
    assert (2, True) in predicted  # two epochs later, by the weights of the best one
    assert all(same for _, same in predicted)
    for file in (tmp_path / "folds").iterdir():
        outcome = json.loads(file.read_text())["outcome"]
        curve = pd.DataFrame(outcome["curve"])
        best = curve.sort_values(["validation_auroc", "validation_loss"], ascending=[False, True])
        assert outcome["best"] == best["epoch"].iloc[0]
        assert outcome["epochs"] == min(12, outcome["best"] + 2)


def test_a_second_fine_tuning_in_the_folder_is_refused(store, training, tmp_path):
    with engine.FinetuneFolder(tmp_path):
        done = fmritok("finetune", "--task", "demo-sex", "--store", store, "--from", training,
                       "--out", tmp_path, "--folds", 2, "--seeds", 1)  # fmt: skip
    assert done.exit_code == 1
    assert "another one that is running" in " ".join(done.output.split())


def test_the_control_is_trained_on_permuted_labels(store, training, tmp_path, monkeypatch):
    jobs, run = [], FoldTraining.run
    monkeypatch.setattr(
        FoldTraining, "run", lambda self, stop: jobs.append(self.job) or run(self, stop)
    )
    results = fine_tuned(store, tmp_path, "train.epochs=1", source=training, control=True)
    codes = results.units.codes
    assert [one.labels is None for one in jobs] == [True, True, False, False]
    for one in jobs[2:]:
        assert sorted(one.labels) == sorted(codes)
        assert (one.labels != codes)[one.fold.train].any()
