"""Attention equals a naive float64 reference, and sees time differences in seconds only."""

from __future__ import annotations

import math

import pytest
import torch

from fmritok.trainer.attention import Attention, rotate, rotation
from fmritok.trainer.backends import attend
from fmritok.trainer.config import ModelConfig

PERIODS = {"pairs": 8, "min_period": 2.0, "max_period": 1000.0}


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
    torch.testing.assert_close(attend(q, k, v, keep).double(), reference, rtol=1e-5, atol=1e-5)


def test_keys_and_values_are_never_repeated_in_memory():
    """The quadratic and the repeating paths of torch would leave another node in the graph."""
    q = torch.randn(1, 4, 64, 32, requires_grad=True)
    k = torch.randn(1, 2, 64, 32, requires_grad=True)
    for keep in (None, torch.ones(1, 64, dtype=torch.bool)):
        out = attend(q, k, k, keep)
        assert "FlashAttentionForCpu" in type(out.grad_fn).__name__


def test_rotation_equals_the_complex_definition():
    times = torch.tensor([[0.0, 0.72, 10.0, 500.0]])
    x = torch.randn(1, 3, 4, 16)
    got = rotate(x, rotation(times, **PERIODS))
    periods = 2.0 * 500.0 ** torch.linspace(0, 1, 8, dtype=torch.float64)
    z = torch.complex(x[..., :8].double(), x[..., 8:].double())
    z = z * torch.exp(2j * torch.pi * times.double()[:, None, :, None] / periods)
    torch.testing.assert_close(got.double(), torch.cat([z.real, z.imag], -1), rtol=1e-4, atol=1e-4)
    assert torch.equal(got[:, :, 0], x[:, :, 0])


def test_shifting_all_times_changes_nothing():
    torch.manual_seed(0)
    module = Attention(ModelConfig(width=64, heads=4, kv_heads=2))
    x = torch.randn(2, 20, 64)
    times = torch.rand(2, 20) * 100

    def run(t):
        return module(x, rotation(t, **PERIODS), None)

    torch.testing.assert_close(run(times), run(times + 37.5), rtol=1e-4, atol=1e-5)
    assert (run(times) - run(times * 1.5)).abs().max() > 1e-3


def test_locality_prefers_tokens_near_in_time_from_the_start():
    torch.manual_seed(0)
    times = torch.arange(60)[None] * 0.72
    shares = []
    for locality in (0.0, 1.0):
        module = Attention(ModelConfig(width=128, heads=2, kv_heads=1, locality=locality))
        by = rotation(times, pairs=32, min_period=2.0, max_period=1000.0)
        q, k = (rotate(0.1 * torch.randn(1, 2, 60, 64) + offset, by) for offset in module.offsets)
        weights = (q @ k.mT / 8).softmax(-1)
        near = (times[0, :, None] - times[0]).abs() < 4
        shares.append((weights * near).sum(-1).mean().item())
    assert shares[0] < 0.2
    assert shares[1] > 0.5


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_setting_trains(norm, qk_norm):
    module = Attention(ModelConfig(norm=norm, qk_norm=qk_norm, width=32, heads=2, kv_heads=1))
    module(torch.randn(1, 5, 32), rotation(torch.rand(1, 5), **PERIODS), None).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
