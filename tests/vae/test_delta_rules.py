"""Rules for non-linear steps have no cancellation, whatever the base and the deviation."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fmritok.tokenizers.vae import delta_rules
from fmritok.tokenizers.vae.delta import DeltaEncoder


def linear_attention(x: torch.Tensor) -> torch.Tensor:
    """As in AutoencoderDC, where a ReLU may leave nothing of a query or of all keys."""
    q, k, v = x.flatten(2).chunk(3, dim=1)
    q, k = torch.relu(q), torch.relu(k)
    v = torch.nn.functional.pad(v, (0, 0, 0, 1), value=1)
    summed = v @ k.transpose(-1, -2) @ q
    return summed[:, :-1] / (summed[:, -1:] + 1e-15)


@torch.inference_mode()
def test_denominators_that_vanish_leave_no_noise():
    """Many random cases; in most of them some frame or the base has a denominator of 0."""
    gone = 0
    for seed in range(150):
        random = torch.Generator().manual_seed(seed)
        b, d = (torch.randn(n, 9, 4, 4, generator=random) for n in (1, 8))
        exact = DeltaEncoder(linear_attention, half=False, dtype=torch.float64)
        single = DeltaEncoder(linear_attention, half=False)
        wanted = exact.deviations(exact.base(b).notes_of(0), d)
        found = single.deviations(single.base(b).notes_of(0), d)
        assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max(), seed
        assert (found - wanted).abs().median() < 1e-6, seed
        gone += bool((linear_attention(b + d) == 0).all(1).any())
    assert gone > 50


@torch.inference_mode()
def test_the_norm_of_a_vanishing_frame_is_no_noise():
    """The variance is what is left of the base's; its rounding error may be negative."""

    def scale(x):
        return torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)

    b = torch.randn(1, 8, 5, 5) * 1000
    d = -b + torch.randn(4, 8, 5, 5) * torch.tensor([0, 1e-3, 1, 1000]).view(4, 1, 1, 1)
    single = DeltaEncoder(scale, half=False)
    found = single.deviations(single.base(b).notes_of(0), d) + scale(b)
    torch.testing.assert_close(found, scale(b + d), rtol=1e-3, atol=0)


def test_every_rule_is_exact_for_small_and_large_deviations():
    """In float32, against the plain difference in float64; the plain difference fails this."""
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(4000, generator=generator)
    sizes = 10 ** torch.empty(4000).uniform_(-6, 1, generator=generator)
    functions = {
        "clamp": lambda x: x.clamp(-0.5, 0.5), "exp": torch.exp, "pow": lambda x: x**2,
        "reciprocal": torch.reciprocal, "relu": torch.relu, "rsqrt": torch.rsqrt,
        "sigmoid": torch.sigmoid, "silu": torch.nn.functional.silu, "softmax": None,
        "sqrt": torch.sqrt, "square": torch.square, "tanh": torch.tanh,
    }  # fmt: skip
    assert set(functions) == set(delta_rules.RULES)
    for name, function in functions.items():
        base, d = b, sizes * b.sign()
        if name in ("rsqrt", "sqrt", "reciprocal"):
            base, d = b.abs() + 0.1, sizes
        rule = delta_rules.RULES[name]
        if name == "softmax":
            base, d = base.reshape(-1, 8), d.reshape(-1, 8)
            function = lambda x: torch.softmax(x, -1)  # noqa: E731
        found = rule(base, d, -0.5, 0.5) if name == "clamp" else rule(base, d)
        exact = function(base.double() + d.double()) - function(base.double())
        scale = exact.abs() if name != "softmax" else exact.abs().amax(-1, keepdim=True)
        wrong = (found - exact).abs() / (scale + 1e-30)
        assert wrong[exact != 0].median() < 2e-7, name
        assert found.isfinite().all(), name


@pytest.mark.parametrize("name", delta_rules.SLOPES)
def test_no_step_is_steeper_than_its_stated_slope(name):
    b = torch.linspace(-12, 12, 4801, dtype=torch.float64)[:, None]
    d = torch.cat([torch.logspace(-6, 2, 81), -torch.logspace(-6, 2, 81)]).double()
    steepest = float((delta_rules.RULES[name](b, d).abs() / d.abs()).max())
    assert steepest <= delta_rules.SLOPES[name] < 1.01 * steepest


def test_attention_takes_a_scale_of_nothing(images):
    """Every value has the same weight then."""
    bases, deviations = images
    encode = partial(torch.nn.functional.scaled_dot_product_attention, scale=0.0)
    encoder = DeltaEncoder(lambda x: encode(x, x, x), half=False, dtype=torch.float64)
    found = encoder.deviations(encoder.base(bases[:1]).notes_of(0), deviations)
    wanted = deviations.double().mean(-2, keepdim=True).expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
