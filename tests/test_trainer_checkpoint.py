"""Checkpoints are there whole or not at all, hold no pickle, and say what does not fit."""

from __future__ import annotations

import json

import pytest
import torch

from fmritok.trainer import checkpoint as module
from fmritok.trainer.checkpoint import (
    find_checkpoint,
    list_checkpoints,
    load_optimizer,
    load_weights,
    read_state,
    refuse_another,
    save_checkpoint,
)
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.sharding import whole_tensors


def _model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def _train(model, optimizer, seed):
    torch.manual_seed(seed)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _save(run, model, optimizer, step, keep=9):
    return save_checkpoint(run, whole_tensors(model, optimizer), {"step": step}, keep=keep)


def test_weights_and_optimizer_come_back_exactly(tmp_path):
    model, optimizer = _model()
    _train(model, optimizer, 0)
    saved = _save(tmp_path, model, optimizer, 1)
    _train(model, optimizer, 1)
    other, other_optimizer = _model()
    load_weights(saved, other)
    load_optimizer(saved, other, other_optimizer)
    _train(other, other_optimizer, 1)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fused", [None, True])
def test_the_optimizer_finds_its_state_where_it_needs_it(tmp_path, fused):
    """Its fused kernel, which a GPU uses, wants the steps with the weights."""
    model, optimizer = _model()
    _train(model, optimizer, 0)
    saved = _save(tmp_path, model, optimizer, 1)
    elsewhere = model.to("meta")
    other = torch.optim.AdamW(elsewhere.parameters())
    other.defaults["fused"] = fused
    load_optimizer(saved, elsewhere, other)
    for state in other.state.values():
        assert state["exp_avg"].is_meta
        assert state["step"].is_meta == bool(fused)


def test_nothing_is_pickled(tmp_path):
    model, optimizer = _model()
    _train(model, optimizer, 0)
    saved = _save(tmp_path, model, optimizer, 1)
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["model.safetensors", "optimizer.safetensors", "state.json"]
    for path in saved.iterdir():
        head = path.read_bytes()[:16]
        assert head.lstrip().startswith(b"{") or b"{" in head[8:10]
        assert b"\x80\x02" not in head
        assert not head.startswith(b"PK")


def test_only_the_last_are_kept_and_the_latest_is_found_by_listing(tmp_path):
    model, optimizer = _model()
    for step in (5, 10, 9, 100):
        _save(tmp_path, model, optimizer, step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    assert find_checkpoint(tmp_path).name == "step-00000100"
    older = tmp_path / "checkpoints" / "step-00000010"
    assert find_checkpoint(older) == older


@pytest.mark.parametrize("broken", ["save_file", "_sync", "list_checkpoints"])
def test_a_writer_that_dies_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch, broken):
    model, optimizer = _model()
    _save(tmp_path, model, optimizer, 1)

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, broken, die)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, model, optimizer, 2)
    latest = find_checkpoint(tmp_path)
    assert latest.name == ("step-00000002" if broken == "list_checkpoints" else "step-00000001")
    load_weights(latest, model)
    load_optimizer(latest, model, optimizer)
    assert read_state(latest)["step"] == int(latest.name[5:])
    _save(tmp_path, model, optimizer, 2)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_weights_that_do_not_fit_are_named(tmp_path):
    model, optimizer = _model()
    saved = _save(tmp_path, model, optimizer, 1)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    with pytest.raises(CheckpointError, match=r"1\.weight of shape \(3, 4\), got \(2, 4\)"):
        load_weights(saved, other)
    with pytest.raises(CheckpointError, match=r"1\.bias of shape none, got \(2,\)"):
        load_weights(saved / "model.safetensors", torch.nn.Sequential(torch.nn.Linear(3, 4)))
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_weights(file, model)


def test_what_is_no_checkpoint_is_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match=r"got nothing\. Check the path"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="got no checkpoint in it"):
        find_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match="with --init-from"):
            find_checkpoint(path)
    (tmp_path / "state.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="expected format 'fmritok checkpoint 1'"):
        read_state(tmp_path)


def test_resuming_something_else_names_the_first_difference(tmp_path):
    saved = {"optim": {"lr": 0.1, "betas": (1, 2)}}
    refuse_another(tmp_path, "Configuration", saved, {"optim": {"lr": 0.1, "betas": [1, 2]}}, "")
    with pytest.raises(
        CheckpointError, match=r"expected optim\.lr = 0\.1 \(as it was saved\), got 0\.2"
    ):
        refuse_another(tmp_path, "Configuration", saved, {"optim": {"lr": 0.2}}, "")
