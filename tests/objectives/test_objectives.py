"""All objectives on the smallest windows: something is always predicted, nothing is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmritok.testing import ObjectiveContract
from fmritok.trainer.config import Config, ModelConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.objectives.distill import SelfDistillation
from fmritok.trainer.objectives.mae import MaskedAutoencoder
from fmritok.trainer.objectives.mtm import MaskedTokenModelling
from fmritok.trainer.objectives.registry import objective_class


def _layout(kind, patch):
    network = {"networks": np.array([0, 0, 1, 1]), "one": np.array([0])}.get(kind)
    return TokenLayout(2 if network is None else len(network), 4 if network is None else 1,
                       patch, network=network)  # fmt: skip


def _batch(lengths, layout):
    B, T, S, D = len(lengths), max(lengths), layout.n_tokens, layout.dim
    generator = torch.Generator().manual_seed(0)
    valid = torch.arange(T) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(-99, 99, (B, T, S, D), generator=generator) * valid[..., None, None]
    std = 0.1 + torch.rand(B, S, D, generator=generator)
    return Batch(
        tokens.to(torch.int8), 3 + std, std, std / 50, torch.arange(T).expand(B, T) * 0.72,
        None if valid.all() else valid, torch.arange(B), torch.arange(B), 0, B, sum(lengths),
    )  # fmt: skip


class TestMaskedTokenModelling(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return MaskedTokenModelling


class TestMaskedAutoencoder(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return MaskedAutoencoder


class TestSelfDistillation(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return SelfDistillation


SMALL = {"mtm": {}, "mae": {"decoder_width": 8}, "distill": {"head_width": 8, "projection": 4}}
OPTIONS = [
    {"name": "mtm", "mask_ratio": 0.01},
    {"name": "mtm", "mask_ratio": 0.01, "masking": "random"},
    {"name": "mtm", "mask_ratio": 0.99, "masking": "random"},
    {"name": "mae", "mask_ratio": 0.01},
    {"name": "mae", "mask_ratio": 0.01, "masking": "random", "decoder_cls": "own"},
    {"name": "mae", "mask_ratio": 0.99, "masking": "random", "decoder": "cross"},
    {"name": "distill", "slice_probability": 1.0, "drop_tokens": 1.0, "drop_time": 1.0},
    {"name": "distill", "slice_probability": 0.0, "jitter": 1.0, "standardize": True},
    {"name": "distill", "slice_probability": 1.0, "apart": True, "summary": "cells"},
]


#: A single network is refused by the objectives that hide some and predict them from others.
KINDS = [("plain", OPTIONS), ("networks", OPTIONS), ("one", OPTIONS[6:])]


@pytest.mark.parametrize(
    ("kind", "options"), [(kind, options) for kind, several in KINDS for options in several]
)
def test_the_smallest_windows_have_a_finite_loss(kind, options):
    """Runs of one frame, windows shorter than a patch, alone and beside longer ones."""
    config = Config(
        model=ModelConfig(width=16, layers=1, heads=1, mlp_width=8),
        objective=objective_class(options["name"]).Config(**SMALL[options["name"]], **options),
    )
    for patch in (1, 4):
        layout = _layout(kind, patch)
        torch.manual_seed(0)
        model = build_objective(config, layout)
        for lengths in ((1,), (3,), (1, 7), (5, 2)):
            batch = _batch(lengths, layout)
            for draws in range(2):
                output = model(batch._replace(draws=batch.draws + 10 * draws), measure=True)
                assert output.loss.n_values > 0
                assert torch.isfinite(output.loss.value)
                assert all(torch.isfinite(mean.value) for mean in output.measures.values())
                output.loss.total.backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            assert all(torch.isfinite(gradient).all() for gradient in gradients)
