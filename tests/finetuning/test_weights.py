"""Which weights a fine-tuning changes, and how fast."""

from __future__ import annotations

import pytest
import torch
from people import a_task, some_units

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.finetuning.config import finetune_config
from fmritok.trainer.finetuning.model import Classifier
from fmritok.trainer.finetuning.targets import Targets
from fmritok.trainer.finetuning.weights import (
    choose_trained,
    layered_groups,
    trained_state,
    whole_state,
)
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.training.optim import build_optimizer


def _model(*assignments):
    config = finetune_config("default", assignments)
    units = some_units(a_task())
    targets = Targets(units, folds_of(units, units.task.split)[0], config.loss)
    torch.manual_seed(0)
    shape = ModelConfig(width=16, layers=3, mlp_width=16, patch=1)
    model = Classifier(TokenTransformer(shape, TokenLayout(3, 4)), config, 2, targets)
    choose_trained(model, config.weights)
    return model, config


def _trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def _step(model, config):
    """Take a step in which every trained weight has a gradient."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(layered_groups(model, config.optim.layer_decay), config.optim)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_all_weights_or_the_head_or_the_last_layers_are_trained():
    model, config = _model("weights.train=all")
    assert _trained(model) == {name for name, _ in model.named_parameters()}
    model, config = _model("weights.train=head")
    assert {name.partition(".")[0] for name in _trained(model)} == {"head"}
    assert {name.partition(".")[0] for name in _step(model, config)} == {"head"}
    model, config = _model("weights.train=last", "weights.last_layers=2")
    found = {".".join(name.split(".")[:3]) for name in _step(model, config)}
    assert found == {"encoder.blocks.1", "encoder.blocks.2", "encoder.final_norm.weight",
                     "head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}  # fmt: skip


def test_more_layers_than_there_are_cannot_be_trained():
    with pytest.raises(ConfigError, match=r"weights.last_layers: expected at most the 3 layers"):
        _model("weights.train=last", "weights.last_layers=4")


def test_lora_trains_only_adapters_and_begins_with_the_pretrained_function():
    pytest.importorskip("peft")
    plain, _ = _model("weights.train=all")
    model, config = _model("weights.train=lora")
    x = torch.randn(2, 3, 3, 4)
    times = torch.arange(3.0).expand(2, -1)
    model.eval(), plain.eval()
    one, other = (m.encoder(m.encoder.embed(x), torch.zeros(2, 3, 4), times).cls
                  for m in (model, plain))  # fmt: skip
    torch.testing.assert_close(one, other)
    changed = _step(model, config)
    assert {name for name in changed if "lora" not in name} == {
        "head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"
    }  # fmt: skip
    # query, key and value, output and two matrices of the MLP, each with two factors
    assert len([name for name in changed if "lora" in name]) == 3 * 5 * 2


def test_weights_with_adapters_added_up_are_those_of_a_plain_model():
    pytest.importorskip("peft")
    plain, _ = _model("weights.train=all")
    model, config = _model("weights.train=lora")
    _step(model, config)
    plain.load_state_dict(whole_state(model))
    x, times = torch.randn(2, 3, 3, 4), torch.arange(3.0).expand(2, -1)
    model.eval(), plain.eval()
    one, other = (m.encoder(m.encoder.embed(x), torch.zeros(2, 3, 4), times).cls
                  for m in (model, plain))  # fmt: skip
    torch.testing.assert_close(one, other)
    assert len(trained_state(model)) == 3 * 5 * 2 + 4


def test_each_layer_learns_slower_than_the_next_one():
    model, _ = _model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    scale = {
        names[p]: group["scale"] for group in layered_groups(model, 0.5) for p in group["params"]
    }
    assert set(scale) == set(names.values())
    assert scale["head.2.weight"] == scale["encoder.final_norm.weight"] == 1
    assert [scale[f"encoder.blocks.{i}.mlp.inner.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    first = ("spatial", "prefix", "static_kind", "embedding.0.weight")
    assert {scale[f"encoder.{name}"] for name in first} == {0.0625}
    assert {group["scale"] for group in layered_groups(model, 1.0)} == {1.0}


def test_norms_biases_and_embeddings_do_not_decay():
    model, config = _model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(layered_groups(model, 0.5), config.optim)
    decayed = {names[p] for group in optimizer.param_groups if group["weight_decay"]
               for p in group["params"]}  # fmt: skip
    assert "encoder.blocks.0.attention.query.weight" in decayed
    assert "head.2.weight" in decayed
    assert not [name for name in decayed if "norm" in name or "bias" in name or "spatial" in name]


def test_dropout_of_layers_acts_in_training_alone():
    model, _ = _model("weights.dropout=0.5", "head.dropout=0")
    x, times = torch.randn(1, 3, 3, 4), torch.arange(3.0)[None]

    def cls():
        return model.encoder(model.encoder.embed(x), torch.zeros(1, 3, 4), times).cls

    model.train()
    assert not torch.equal(cls(), cls())
    model.eval()
    assert torch.equal(cls(), cls())
    frozen, _ = _model("weights.train=head", "weights.dropout=0.5")
    assert not frozen.train().encoder.training
