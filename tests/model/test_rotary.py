"""Rotation equals its complex definition, and attention starts by preferring tokens near by."""

from __future__ import annotations

import pytest
import torch

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model.attention import Attention
from fmritok.trainer.model.rotary import rotate, rotation, start_offsets

PLACES = torch.tensor([[[0.0, 0, 0, 0], [0.72, -30, 10, 70], [10, 0, -90, 20], [500, 60, 40, -50]]])


@pytest.mark.parametrize(("position", "pairs"), [("time", [8]), ("space_time", [2, 2, 2, 2])])
def test_rotation_equals_the_complex_definition(position, pairs):
    """Time from 2 to 1000 s, millimetres from 40 to 300, each axis in pairs of its own."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 16)
    got = rotate(x, rotation(PLACES, ModelConfig(width=48, heads=3, kv_heads=1, position=position)))
    parts = []
    for axis, n in enumerate(pairs):
        shortest, ratio = (40.0, 7.5) if axis else (2.0, 500.0)
        periods = shortest * ratio ** torch.linspace(0, 1, n, dtype=torch.float64)
        parts.append(PLACES[..., axis, None].double() / periods)
    turns = torch.cat(parts, -1)[:, None]
    z = torch.complex(x[..., :8].double(), x[..., 8:].double()) * torch.exp(2j * torch.pi * turns)
    expected = torch.cat([z.real, z.imag], -1)
    torch.testing.assert_close(got[:, :, :3].double(), expected[:, :, :3], rtol=0, atol=2e-5)
    # 500 s are 250 turns of the fastest pair, whose angle float32 holds to 1e-4.
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=5e-4)
    assert torch.equal(got[:, :, 0], x[:, :, 0])


def test_rotation_by_number_equals_the_complex_definition():
    """Base 10,000, the fastest pair by one radian for each token."""
    torch.manual_seed(0)
    x, numbers = torch.randn(1, 2, 5, 16), torch.tensor([0.0, 1, 2, 300, 6912])
    places = torch.zeros(1, 5, 4)
    places[..., 0] = numbers
    config = ModelConfig(width=32, heads=2, kv_heads=1, position="index")
    got = rotate(x, rotation(places, config))
    angles = numbers.double()[:, None] * 10_000.0 ** -(torch.arange(8.0).double() / 8)
    z = torch.complex(x[..., :8].double(), x[..., 8:].double()) * torch.exp(1j * angles)
    expected = torch.cat([z.real, z.imag], -1)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(got[:, :, :3].double(), expected[:, :, :3], rtol=0, atol=1e-6)
    assert start_offsets(config) is None


def test_without_positions_nothing_turns():
    config = ModelConfig(position="none")
    assert rotation(PLACES, config) is None
    assert start_offsets(config) is None


def test_time_has_what_space_leaves_of_the_pairs():
    """Heads of 10 pairs: 2 for each axis of space, 4 for time."""
    config = ModelConfig(width=20, heads=1, kv_heads=1, position="space_time")
    by = rotation(torch.eye(4)[None] * 17, config)
    turned = [row.nonzero()[:, 0].tolist() for row in by.sin[0, 0]]
    assert turned == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize("position", ["time", "space_time"])
def test_locality_prefers_tokens_near_in_time_from_the_start(position):
    torch.manual_seed(0)
    places = torch.zeros(1, 60, 4)
    places[..., 0] = torch.arange(60) * 0.72
    near = (places[0, :, None, 0] - places[0, :, 0]).abs() < 4
    without, with_it = _shares(places, near, position)
    assert without < 0.2
    assert with_it > 0.5


def test_locality_prefers_tokens_near_in_space_from_the_start():
    torch.manual_seed(0)
    places = torch.zeros(1, 100, 4)
    places[..., 1:] = torch.rand(100, 3) * 160 - 80
    near = torch.cdist(places[0], places[0]) < 40
    without, with_it = _shares(places, near, "space_time")
    assert without < 0.1
    assert with_it > 4 * without


def _shares(places, near, position):
    """Attention to the near ones at the start, without locality and with it."""
    for locality in (0.0, 1.0):
        config = ModelConfig(width=128, heads=2, kv_heads=1, locality=locality, position=position)
        by = rotation(places, config)
        shape = (1, 2, places.shape[1], 64)
        offsets = Attention(config).offsets.detach()
        q, k = (rotate(0.1 * torch.randn(shape) + offset, by) for offset in offsets)
        weights = (q @ k.mT / 8).softmax(-1)
        yield (weights * near).sum(-1).mean().item()


def test_a_head_needs_a_pair_for_each_axis():
    with pytest.raises(ConfigError, match=r"at least 8 times model\.heads = 4"):
        ModelConfig(width=24, heads=4, kv_heads=1, position="space_time")
