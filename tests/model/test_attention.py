"""Attention equals a naive float64 reference, and sees differences of places only."""

from __future__ import annotations

import math

import pytest
import torch

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.model.attention import Attention, make_norm
from fmritok.trainer.model.backends import Sdpa
from fmritok.trainer.model.rotary import rotation


def _naive(q, k, v, keep=None):
    """Attend in float64 with repeated keys and a materialised softmax."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None, :], -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("padded", [False, True])
def test_grouped_query_attention_equals_float64(kv_heads, padded):
    torch.manual_seed(0)
    q = torch.randn(2, 6, 37, 16)
    k, v = torch.randn(2, 2, kv_heads, 37, 16)
    keep = torch.arange(37) < torch.tensor([[37], [11]]) if padded else None
    reference = _naive(q, k, v, keep)
    torch.testing.assert_close(
        Sdpa.of(keep, q.device).attend(q, k, v).double(), reference, rtol=1e-5, atol=1e-5
    )


def test_keys_and_values_are_never_repeated_in_memory():
    """The quadratic and the repeating paths of torch would leave another node in the graph."""
    q = torch.randn(1, 4, 64, 32, requires_grad=True)
    k = torch.randn(1, 2, 64, 32, requires_grad=True)
    for keep in (None, torch.ones(1, 64, dtype=torch.bool)):
        out = Sdpa.of(keep, q.device).attend(q, k, k)
        assert "FlashAttentionForCpu" in type(out.grad_fn).__name__


@pytest.mark.parametrize(
    ("position", "seen", "tolerance"),
    [("time", [0], 1e-5), ("space_time", [0, 1, 2, 3], 4e-5)],
)
def test_only_differences_of_places_matter_and_only_along_its_axes(position, seen, tolerance):
    torch.manual_seed(0)
    config = ModelConfig(width=64, heads=4, kv_heads=2, position=position)
    module, x = Attention(config), torch.randn(2, 20, 64)
    places = torch.rand(2, 20, 4) * 100

    def run(places):
        return module(x, rotation(places, config), Sdpa())

    torch.testing.assert_close(run(places), run(places + 37.5), rtol=1e-4, atol=tolerance)
    for axis in range(4):
        stretched = places.clone()
        stretched[..., axis] *= 1.5
        changed = (run(places) - run(stretched)).abs().max()
        assert changed > 1e-3 if axis in seen else changed == 0


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_setting_trains(norm, qk_norm):
    config = ModelConfig(norm=norm, qk_norm=qk_norm, width=32, heads=2, kv_heads=1)
    module = Attention(config)
    module(torch.randn(1, 5, 32), rotation(torch.rand(1, 5, 4), config), Sdpa()).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.filterwarnings("error")
def test_norms_keep_the_type_of_what_they_get():
    """Without torch's warning that it falls back to a slow path."""
    norm = make_norm(ModelConfig(norm="rmsnorm"), 64)
    torch.nn.init.normal_(norm.weight, mean=1, std=0.1)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        x = torch.randn(9, 64).to(dtype)
        wide = x.double()
        reference = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
        assert norm(x).dtype == dtype
        torch.testing.assert_close(norm(x).double(), reference, rtol=tolerance, atol=tolerance)
