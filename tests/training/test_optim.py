"""The learning rate at its ends and middle; what is decayed."""

from __future__ import annotations

import pytest
import torch

from fmritok.trainer.config import ModelConfig, OptimConfig
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.mtm import MaskedTokenModelling
from fmritok.trainer.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    weight_decay,
)


def test_warm_up_and_cosine_at_their_ends_and_middle():
    config = OptimConfig(lr=1.0, warmup=0.1, final_lr_ratio=0.2)
    rates = [learning_rate(config, step, 101) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[4] == pytest.approx(5 / 11)
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate(config, 0, 1) == 1.0


def test_schedules_from_zero_end_one_step_after_the_last():
    config = OptimConfig(
        lr=1.0, warmup=0.1, final_lr_ratio=0.2, from_zero=True,
        weight_decay=0.1, final_weight_decay=0.3,
    )  # fmt: skip
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert (rates[0], rates[5], rates[10]) == (0.0, 0.5, 1.0)
    assert rates[55] == pytest.approx(0.6)
    assert rates[99] > rates[100] == pytest.approx(0.2)
    decays = [weight_decay(config, step, 100) for step in (0, 50, 100)]
    assert decays == pytest.approx([0.1, 0.2, 0.3])


def model_with_all_kinds_of_weights():
    config = ModelConfig(
        width=16, mlp_width=8, bias=True, norm="layernorm", registers=1, layer_scale=0.1
    )
    encoder = TokenTransformer(config, TokenLayout(4, 3))
    return MaskedTokenModelling(encoder, MaskedTokenModelling.Config(), window=8)


@pytest.mark.parametrize(
    ("decay", "decayed", "others"),
    [
        ("no_norms", {"encoder.spatial", "encoder.prefix", "mask_vector", "head.weight",
                      "encoder.embedding.0.weight", "encoder.blocks.0.mlp.inner.weight"},
         {"head.bias", "encoder.final_norm.weight", "encoder.blocks.0.scales",
          "encoder.blocks.0.attention.offsets", "encoder.static_embedding.0.weight"}),
        ("all", {"encoder.spatial", "head.bias", "encoder.final_norm.weight",
                 "encoder.blocks.0.scales"}, set()),
    ],
)  # fmt: skip
def test_more_than_matrices_is_decayed_by_option(decay, decayed, others):
    model = model_with_all_kinds_of_weights()
    found = {
        name
        for name, parameter in model.named_parameters()
        for group in parameter_groups(model, decay)
        if group["decayed"] and any(parameter is p for p in group["params"])
    }
    names = dict(model.named_parameters()).keys()
    assert decayed | others <= names
    assert decayed <= found
    assert not others & found
    if decay == "all":
        assert found == names


def test_only_matrices_of_linear_layers_are_decayed():
    model = model_with_all_kinds_of_weights()
    optimizer = build_optimizer(parameter_groups(model), OptimConfig(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        norm = "norm" in name or ".static_embedding.0." in name
        matrix = name.endswith("weight") and not norm
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name
    assert len(decay) == len(list(model.parameters()))
    assert isinstance(optimizer, torch.optim.AdamW)
