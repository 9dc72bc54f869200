"""Dropout acts in training alone, on what its name says, and in attention of every layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model import blocks
from fmritok.trainer.model.backends import Sdpa, SdpaByLength
from fmritok.trainer.model.choice import plan_attention
from fmritok.trainer.model.drop_path import draw_paths, path_shares
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.packing import Packing
from fmritok.trainer.objectives.mae import MaskedAutoencoder

SMALL = ModelConfig(width=32, layers=2, heads=4, kv_heads=2, mlp_width=48, input="residual")
OPTIONS = ("input_dropout", "mlp_dropout", "attention_dropout")
TIMES = torch.arange(6.0).expand(3, -1)
VALID = torch.arange(6) < torch.tensor([[6], [3], [6]])


def _model(**options):
    torch.manual_seed(0)
    return TokenTransformer(replace(SMALL, **options), TokenLayout(5, 7))


@torch.no_grad()
def _cls(model, seed, valid=None):
    frames = torch.randn(3, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(seed)
    return model(model.embed(frames), None, TIMES, valid).cls


@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "unequal"])
@pytest.mark.parametrize("option", OPTIONS)
def test_dropout_acts_in_training_alone(option, valid):
    model = _model(**{option: 0.3}).train()
    one, again, other = (_cls(model, seed, valid) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert ((one - other).abs().amax(1) > 1e-3).all(), "in every window"
    torch.testing.assert_close(_cls(model.eval(), 1, valid), _cls(_model().eval(), 2, valid))


def test_features_of_embedded_tokens_are_dropped_and_the_others_scaled():
    model, plain = _model(input_dropout=0.25).train(), _model()
    frames = torch.randn(3, 6, 5, 7)
    with torch.no_grad():
        dropped, whole = model.embed(frames), plain.embed(frames)
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


@pytest.mark.parametrize("packed", [False, True])
def test_weights_of_attention_are_dropped(packed):
    """Values of 1 are attended to as 1, with dropout only on average."""
    torch.manual_seed(0)
    keep = torch.ones(1, 64, dtype=torch.bool)
    plan = SdpaByLength.of(Packing.of(keep, torch.device("cpu"))) if packed else Sdpa()
    q, k = torch.randn(1, 4, 64, 8), torch.randn(1, 2, 64, 8)
    attended = plan.with_dropout(0.5).attend(q, k, torch.ones(1, 2, 64, 8))
    assert float(attended.mean()) == pytest.approx(1, abs=0.05)
    assert float(attended.std()) > 0.1
    assert torch.allclose(plan.attend(q, k, torch.ones(1, 2, 64, 8)), torch.ones(1))


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("unequal", [False, True])
def test_windows_skip_layers_whole_more_often_in_later_layers(unequal, checkpointing):
    """Half of the windows skip the attention of the last layer, half its MLP, a quarter both."""
    model = _model(layers=2, drop_path=0.5, checkpointing=checkpointing)
    generator = torch.Generator().manual_seed(0)
    embedded = model.embed(torch.randn(200, 6, 5, 7, generator=generator)).detach()
    valid = VALID[:2].repeat(100, 1) if unequal else None

    def run():
        torch.manual_seed(0)
        out = model(embedded, None, TIMES[:1].expand(200, -1), valid)
        tokens = out.tokens if valid is None else out.tokens * valid[:, :, None, None]
        return torch.cat([out.cls[:, None], tokens.flatten(1, 2)], 1).detach()

    dropped, whole = run(), run_eval(model, run)
    model.blocks[1] = _Skipped()
    first = run_eval(model, run)
    skipped = (dropped == first).flatten(1).all(1)
    assert float(skipped.float().mean()) == pytest.approx(0.25, abs=0.08)
    assert not (dropped == whole).flatten(1).all(1).any(), "what is left is scaled"


class _Skipped(torch.nn.Module):
    def forward(self, x_BLW, *_):
        return x_BLW


def run_eval(model, run):
    model.eval()
    found = run()
    model.train()
    return found


def test_what_layers_add_keeps_its_mean():
    factors = draw_paths(torch.zeros(4000, 3, 8), 0.25)
    assert factors.shape == (4000, 3, 2)
    assert (factors == factors[:, :1]).all(), "one draw for a window"
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float(factors.mean()) == pytest.approx(1, abs=0.03)
    assert path_shares(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert path_shares(0.3, 1) == [0]
    assert draw_paths(torch.zeros(1, 1, 1), 0.0) is None


def test_decoders_do_not_skip_layers():
    decoder = MaskedAutoencoder(_model(drop_path=0.5), MaskedAutoencoder.Config(), window=6).decoder
    assert decoder.config.drop_path == 0


@pytest.mark.parametrize("option", [*OPTIONS, "drop_path"])
def test_shares_outside_0_to_1_are_refused(option):
    with pytest.raises(ConfigError, match=rf"model\.{option}: expected 0 or more and below 1"):
        replace(SMALL, **{option: 1.0})


def test_windows_of_unequal_length_are_sdpas_with_dropout_of_attention(monkeypatch):
    """On a GPU, auto would be a backend without dropout."""
    wanted = []

    def plan(name, *rest):
        wanted.append(name)
        return plan_attention(name, *rest)

    monkeypatch.setattr(blocks, "plan_attention", plan)
    for share in (0.1, 0.0):
        _cls(_model(attention_dropout=share).train(), 0, VALID)
    assert wanted == ["sdpa", "auto"]


def test_other_backends_than_sdpa_are_refused_with_dropout_of_attention():
    with pytest.raises(ConfigError, match=r"model\.attention: expected auto or sdpa, .*got math"):
        replace(SMALL, attention="math", attention_dropout=0.1)
