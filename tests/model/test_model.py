"""The Transformer: seconds and millimetres, padding, and what each option changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer

SMALL = ModelConfig(width=32, layers=2, heads=4, kv_heads=2, mlp_width=48)
CENTRES = np.random.default_rng(0).uniform(-70, 70, (5, 3))


def _model(config=SMALL):
    torch.manual_seed(0)
    return TokenTransformer(config, TokenLayout(5, 7, coordinates=CENTRES, window=6)).eval()


def _encode(model, frames, times, valid=None):
    static = frames.mean(1) if model.config.input == "both" else None
    with torch.no_grad():
        return model(model.embed(frames), static, times, valid)


def test_equal_seconds_give_equal_results_at_any_tr():
    model, frames = _model(), torch.randn(1, 26, 5, 7)
    fast = torch.arange(26)[None] * 0.72
    # Every 25th frame of TR 0.72 is a 9th of TR 2.0: the same frames, described by either TR.
    chosen = torch.tensor([0, 25])
    one = _encode(model, frames[:, chosen], fast[:, chosen])
    other = _encode(model, frames[:, chosen], torch.tensor([[0, 9]]) * 2.0)
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-5, atol=1e-5)
    slow = _encode(model, frames, torch.arange(26)[None] * 2.0)
    assert (slow.tokens - _encode(model, frames, fast).tokens).abs().max() > 1e-3


def test_without_position_the_order_of_frames_is_not_seen():
    model = _model(replace(SMALL, position="none"))
    frames, times = torch.randn(1, 6, 5, 7), torch.arange(6.0)[None]
    order = torch.randperm(6)
    one, other = _encode(model, frames, times), _encode(model, frames[:, order], times)
    torch.testing.assert_close(one.cls, other.cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.tokens[:, order], other.tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["residual", "both"])
def test_padding_changes_nothing(form):
    model = _model(replace(SMALL, input=form, registers=2))
    long, short = torch.randn(1, 9, 5, 7), torch.randn(1, 4, 5, 7)
    times = torch.arange(9)[None] * 0.72
    padded = torch.cat([short, 1e3 * torch.randn(1, 5, 5, 7)], 1)
    valid = torch.arange(9) < torch.tensor([[9], [4]])
    static = torch.cat([long.mean(1), short.mean(1)]) if form == "both" else None
    with torch.no_grad():
        x = model.embed(torch.cat([long, padded]))
        both = model(x, static, times.expand(2, -1), valid)
    for i, (frames, n) in enumerate([(long, 9), (short, 4)]):
        alone = _encode(model, frames, times[:, :n])
        torch.testing.assert_close(both.tokens[i, :n], alone.tokens[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both.cls[i], alone.cls[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"position": "none"}, {"position": "space_time"}, {"input": "residual"}]
)
def test_patches_asked_for_alone_are_those_of_all(options, kept, packing):
    """Also for their gradients: the last layer leaves out what nobody looks at."""
    model = _model(replace(SMALL, registers=2, packing=packing, **options))
    torch.manual_seed(1)
    frames, times = torch.randn(2, 6, 5, 7), torch.arange(6)[None].expand(2, -1) * 0.72
    valid = torch.arange(6) < torch.tensor([[6], [4]]) if kept else None
    static = frames.mean(1) if model.config.input == "both" else None
    wanted = torch.stack([torch.randperm(4 * 5)[:9] for _ in range(2)])
    gradients = []
    for alone in (None, wanted):
        out = model(model.embed(frames), static, times, valid, alone)
        tokens = out.tokens
        if alone is None:
            tokens = tokens.flatten(1, 2).gather(1, wanted[:, :, None].expand(-1, -1, 32))
        one = torch.cat([tokens.flatten(), out.cls.flatten(), out.registers.flatten()])
        one.square().sum().backward()
        gradients.append([one] + [p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_places_in_space_are_for_flat_maps_unless_asked_for():
    mask = np.ones((5, 7), bool)
    for kind, layout, position in (
        ("auto", TokenLayout(5, 7, coordinates=CENTRES), "time"),
        ("auto", TokenLayout(5, 7, pixel_mask=mask, coordinates=CENTRES), "space_time"),
        ("auto", TokenLayout(5, 7, pixel_mask=mask), "time"),
        ("space_time", TokenLayout(5, 7, coordinates=CENTRES), "space_time"),
        ("time", TokenLayout(5, 7, pixel_mask=mask, coordinates=CENTRES), "time"),
    ):
        assert TokenTransformer(replace(SMALL, position=kind), layout).config.position == position
    with pytest.raises(
        ConfigError, match=r"model\.position: expected a position without coordinates"
    ):
        TokenTransformer(replace(SMALL, position="space_time"), TokenLayout(5, 7))


@pytest.mark.parametrize("form", ["residual", "both"])
@pytest.mark.parametrize("position", ["time", "space_time"])
def test_space_is_where_cells_are_not_their_order(position, form):
    """Cells in another order, with their contents, embeddings and centres, change nothing."""
    config = replace(SMALL, position=position, input=form)
    model, other, order = _model(config), _model(config), torch.tensor([3, 0, 4, 2, 1])
    frames, times = torch.randn(1, 6, 5, 7), torch.arange(6.0)[None]
    other.spatial.data = model.spatial.data[order]
    out = _encode(model, frames, times)
    for moved in (False, True):
        other.grid.coordinates.copy_(torch.from_numpy(CENTRES)[order if moved else slice(None)])
        found = _encode(other, frames[:, :, order], times)
        same = torch.allclose(found.tokens, out.tokens[:, :, order], rtol=1e-4, atol=1e-5)
        assert same == (moved or position == "time")


@pytest.mark.parametrize("position", ["space_time", "learned", "sincos", "index"])
@pytest.mark.parametrize("form", ["residual", "both"])
def test_all_patches_chosen_are_all_patches(form, position):
    """Encoding chosen patches alone puts each at its own place."""
    model = _model(replace(SMALL, position=position, input=form))
    frames, times = torch.randn(2, 6, 5, 7), torch.arange(6.0).expand(2, -1)
    order = torch.stack([torch.randperm(30) for _ in range(2)])
    static = frames.mean(1) if form == "both" else None
    out = _encode(model, frames, times)
    with torch.no_grad():
        x = model.embed(frames).flatten(1, 2).gather(1, order[:, :, None].expand(-1, -1, 32))
        chosen = model.encode_chosen(x, order // 5, order % 5, static, times, None)
    tokens = out.tokens.flatten(1, 2).gather(1, order[:, :, None].expand(-1, -1, 32))
    torch.testing.assert_close(chosen.tokens, tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chosen.cls, out.cls, rtol=1e-4, atol=1e-5)


def test_cells_are_told_apart_by_the_spatial_embedding():
    model = _model(replace(SMALL, input="residual"))
    same = torch.ones(1, 3, 5, 7)
    frames = _encode(model, same, torch.arange(3.0)[None]).tokens
    assert (frames[:, :, 0] - frames[:, :, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"mlp": "relu", "norm": "layernorm", "bias": True, "qk_norm": False, "input_norm": True,
         "embedding_norm": True, "final_norm": False, "input": "absolute"},
        {"mlp": "gelu", "registers": 3},
        {"kv_heads": 4},
        {"position": "none"},
        {"position": "space_time"},
        {"position": "index", "init": "torch"},
        {"position": "sincos", "bias": True, "qkv_bias": False},
        {"cell_embedding": False},
    ],
)  # fmt: skip
def test_shapes_and_gradients_under_every_option(options):
    config = replace(SMALL, **options)
    model = _model(config).train()
    frames = torch.randn(2, 4, 5, 7)
    static = torch.randn(2, 5, 7) if config.input == "both" else None
    out = model(model.embed(frames), static, torch.arange(4.0).expand(2, -1))
    assert out.cls.shape == (2, 32)
    assert out.registers.shape == (2, config.registers, 32)
    assert out.tokens.shape == (2, 4, 5, 32)
    assert (out.static is None) == (config.input != "both")
    sum(x.square().sum() for x in out if x is not None).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_only_the_options_decide_which_biases_and_embeddings_there_are():
    names = {
        name
        for options in ({"bias": True, "qkv_bias": False, "cell_embedding": False}, {"bias": True})
        for name in dict(_model(replace(SMALL, **options)).named_parameters())
        if options.get("cell_embedding", True) is False
    }
    assert "blocks.0.attention.output.bias" in names
    assert not names & {"spatial", "blocks.0.attention.query.bias",
                        "blocks.0.attention.key_value.bias"}  # fmt: skip


def test_positions_of_patches_are_fixed_sines_and_cosines_of_their_number():
    model = _model(replace(SMALL, position="sincos"))
    assert "temporal" not in model.state_dict()
    frequencies = 10_000.0 ** -(torch.arange(16, dtype=torch.float64) / 16)
    angles = torch.arange(len(model.temporal), dtype=torch.float64)[:, None] * frequencies
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    torch.testing.assert_close(model.temporal.double(), expected, rtol=0, atol=1e-6)
    with pytest.raises(TrainingError, match="at most"):
        _encode(model, torch.randn(1, 40, 5, 7), torch.arange(40.0)[None])


def test_initial_weights_follow_the_options():
    torch.manual_seed(0)
    model = _model(replace(SMALL, init="torch", cls_std=1.0, registers=9))
    assert 0.7 < model.prefix.std() < 1.3
    assert 0.01 < model.spatial.std() < 0.03
    assert model.blocks[0].mlp.inner.weight.abs().max() <= SMALL.width**-0.5
    assert _model(replace(SMALL, registers=9)).prefix.std() < 0.05


def test_the_published_size():
    """The published sizes: 10.56 M per layer, 126.8 M in layers, 2.75 M in the input projection."""
    config = ModelConfig(
        input="absolute", width=896, layers=12, heads=14, kv_heads=2, mlp="relu", mlp_width=4864,
        norm="layernorm", bias=True, qk_norm=False, input_norm=True, embedding_norm=True,
        final_norm=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = TokenTransformer(config, TokenLayout(27, 3072))
    layers = sum(p.numel() for p in model.blocks.parameters())
    assert layers / 12 == pytest.approx(10.56e6, rel=1e-3)
    assert sum(p.numel() for p in model.embedding[1].parameters()) == pytest.approx(
        2.75e6, rel=2e-3
    )
