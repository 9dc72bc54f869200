"""A checkpoint is there whole or not at all, holds no pickle, and says what is wrong with it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fmritok.pipeline.store.documents.seal import canonical_json
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.parallel.sharding import whole_tensors
from fmritok.trainer.record import checkpoint as module
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.record.finding import find_checkpoint, find_weights, init_weights
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.tensor_files import load_weights

TEXTS = {"runs.json": b"{}", "metrics.jsonl": b""}


def _model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def _train(model, optimizer, seed):
    torch.manual_seed(seed)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _save(folder, model, optimizer, step, keep=9):
    tensors, state = whole_tensors(model, optimizer), {"step": step}
    return TrainingFolder(folder).save(tensors, state, TEXTS, keep=keep)


@pytest.fixture
def saved(tmp_path):
    model, optimizer = _model()
    _train(model, optimizer, 0)
    for step in (1, 2):
        _save(tmp_path, model, optimizer, step)
    return tmp_path / "checkpoints" / "step-00000002"


def test_weights_and_optimizer_come_back_exactly(tmp_path):
    model, optimizer = _model()
    _train(model, optimizer, 0)
    saved = Checkpoint.read(_save(tmp_path, model, optimizer, 1))
    _train(model, optimizer, 1)
    other, other_optimizer = _model()
    saved.load_weights(other)
    saved.load_optimizer(other, other_optimizer)
    _train(other, other_optimizer, 1)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fused", [None, True])
def test_the_optimizer_state_is_loaded_to_the_right_device(saved, fused):
    """Its fused kernel, which a GPU uses, wants the steps with the weights."""
    elsewhere = _model()[0].to("meta")
    other = torch.optim.AdamW(elsewhere.parameters())
    other.defaults["fused"] = fused
    Checkpoint.read(saved).load_optimizer(elsewhere, other)
    assert len(other.state) == 4
    for state in other.state.values():
        assert state["exp_avg"].is_meta
        assert state["step"].is_meta == bool(fused)


def test_nothing_is_pickled(saved):
    names = sorted(path.name for path in saved.iterdir())
    assert names == [
        "metrics.jsonl", "model.safetensors", "optimizer.safetensors", "runs.json", "state.json",
    ]  # fmt: skip
    for path in saved.iterdir():
        head = path.read_bytes()[:16]
        assert b"\x80\x02" not in head
        assert not head.startswith(b"PK")


def test_only_the_last_checkpoints_are_kept(tmp_path):
    model, optimizer = _model()
    for step in (5, 10, 100):
        _save(tmp_path, model, optimizer, step, keep=2)
    kept = TrainingFolder(tmp_path).checkpoints()
    assert [p.name for p in kept] == ["step-00000010", "step-00000100"]
    assert find_checkpoint(tmp_path).step == 100
    assert find_checkpoint(kept[0]).folder == kept[0]
    _save(tmp_path, model, optimizer, 11)  # what came later was left behind
    assert [p.name for p in TrainingFolder(tmp_path).checkpoints()] == [
        "step-00000010", "step-00000011",
    ]  # fmt: skip


@pytest.mark.parametrize("broken", ["save_file", "sync_folder", "_put_in_place"])
def test_a_killed_writer_leaves_the_old_checkpoint(tmp_path, monkeypatch, broken):
    model, optimizer = _model()
    _save(tmp_path, model, optimizer, 1)

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, broken, die)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, model, optimizer, 2)
    latest = find_checkpoint(tmp_path)
    latest.check()
    assert latest.step == 1
    _save(tmp_path, model, optimizer, 2)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_checkpoint_is_restored_after_a_killed_replacement(saved):
    hidden = saved.rename(saved.with_name(f".{saved.name}.replaced"))
    folder = TrainingFolder(saved.parent.parent)
    folder.hold()
    folder.release()
    assert not hidden.exists()
    Checkpoint.read(saved).check()


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "model.safetensors", "optimizer.safetensors", "runs.json", "state.json"],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_every_damaged_file_is_named_with_the_earlier_checkpoint(saved, name, damage):
    file = saved / name
    data = bytearray(file.read_bytes() or b"{}")
    if damage == "delete":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[-2] ^= 4
        file.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name}: .*use the earlier .*step-00000001") as e:
        Checkpoint.read(saved).check()
    assert str(e.value).count("\n") == 0


def test_a_state_that_was_edited_or_renamed_is_refused(saved):
    text = (saved / "state.json").read_text()
    (saved / "state.json").write_text(text.replace('"step": 2', '"step": 3'))
    with pytest.raises(CheckpointError, match="expected a state that matches its digest"):
        Checkpoint.read(saved)
    (saved / "state.json").write_text(text)
    renamed = saved.rename(saved.with_name("step-00000003"))
    with pytest.raises(CheckpointError, match="its digest and the step"):
        Checkpoint.read(renamed)
    copied = renamed.rename(saved.with_name("best"))
    Checkpoint.read(copied).check()


def test_an_optimizer_without_some_tensors_is_refused(saved):
    """Also by checkpoints that have no checksums."""
    state = json.loads((saved / "state.json").read_text())
    for name in ("files", "digest"):
        del state[name]
    state |= {"format": "fmritok checkpoint 1", "position": {}, "config": {}, "group": {},
              "split": ""}  # fmt: skip
    (saved / "state.json").write_bytes(canonical_json(state))
    file = saved / "optimizer.safetensors"
    whole = load_file(file)
    for name in ("exp_avg.0.weight", "step.1.bias"):
        save_file({key: value for key, value in whole.items() if key != name}, file)
        with pytest.raises(CheckpointError, match=rf"expected {name} of shape .* got none"):
            Checkpoint.read(saved).load_optimizer(*_model())
    save_file({k: v for k, v in whole.items() if not k.endswith("1.bias")}, file)
    with pytest.raises(CheckpointError, match=r"expected step\.1\.bias of shape .* got none"):
        Checkpoint.read(saved).load_optimizer(*_model())
    save_file({**whole, "exp_avg.2.bias": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"of this model's weights only, got exp_avg\.2"):
        Checkpoint.read(saved).load_optimizer(*_model())


def test_weights_that_do_not_fit_are_named(saved, tmp_path):
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    with pytest.raises(CheckpointError, match=r"1\.weight of shape \(3, 4\), got \(2, 4\)"):
        Checkpoint.read(saved).load_weights(other)
    with pytest.raises(CheckpointError, match=r"1\.bias of shape none, got \(2,\)"):
        load_weights(saved / "model.safetensors", torch.nn.Sequential(torch.nn.Linear(3, 4)))
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_weights(file, other)


def test_the_weights_of_a_checkpoint_are_compared_however_they_are_given(saved):
    file, model = saved / "model.safetensors", _model()[0]
    for path in (saved.parent.parent, saved, file):
        init_weights(find_weights(path), model)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for path in (saved.parent.parent, saved, file):
        with pytest.raises(CheckpointError, match="the content that state.json names"):
            init_weights(find_weights(path), model)


def test_paths_without_a_checkpoint_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"got nothing\. Check the path"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="got no checkpoint in it"):
        find_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match="with --init-from FILE"):
            find_checkpoint(path)
    (tmp_path / "state.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="expected format 'fmritok checkpoint 2'"):
        find_checkpoint(tmp_path)
