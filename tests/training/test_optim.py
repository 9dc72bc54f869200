"""The learning rate at its ends and middle; what is decayed."""

from __future__ import annotations

import pytest
import torch

from fmritok.trainer.config import ModelConfig, OptimConfig
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.mtm import MaskedTokenModelling
from fmritok.trainer.training.optim import build_optimizer, learning_rate


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


def test_only_matrices_of_linear_layers_are_decayed():
    config = ModelConfig(width=16, mlp_width=8, bias=True, norm="layernorm", registers=1)
    encoder = TokenTransformer(config, TokenLayout(4, 3))
    model = MaskedTokenModelling(encoder, MaskedTokenModelling.Config(), window=8)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        norm = "norm" in name or ".static_embedding.0." in name
        matrix = name.endswith("weight") and not norm
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name
    assert len(decay) == len(list(model.parameters()))
    assert isinstance(optimizer, torch.optim.AdamW)
