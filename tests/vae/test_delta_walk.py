"""Steps without a rule are computed and named, or refused."""

from __future__ import annotations

import pytest
import torch

from fmritok.errors import FmritokError
from fmritok.tokenizers.vae.delta import DeltaEncoder


def test_a_step_without_a_rule_is_computed_and_named_once(images):
    bases, deviations = images

    def encode(x):
        return torch.nn.functional.mish(torch.nn.functional.mish(2 - x))

    encoder = DeltaEncoder(encode, half=False, dtype=torch.float64)
    base = encoder.base(bases[:1])
    with pytest.warns(UserWarning, match="no rule for mish") as told:
        found = encoder.deviations(base.notes_of(0), deviations)
    wanted = encode(bases[:1].double() + deviations.double()) - encode(bases[:1].double())
    assert len(told) == 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@torch.library.custom_op("fmritok_tests::wobble", mutates_args=())
def wobble(x: torch.Tensor, by: float) -> torch.Tensor:
    """Stand for an operation that no one knows."""
    return torch.sin(by * x) + x.flip(-1)


def masked_attention(x: torch.Tensor) -> torch.Tensor:
    """Attend by hand to what a causal mask leaves, in one head for each channel."""
    attended = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).tril()
    return attended + torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def grouped_attention(x: torch.Tensor) -> torch.Tensor:
    """Attend with one key for all channels."""
    one = x[:, :1]
    return torch.nn.functional.scaled_dot_product_attention(x, one, one, enable_gqa=True)


UNKNOWN = {
    "floor of a quotient": lambda x: x + torch.div(x, 1e4, rounding_mode="floor"),
    "floor of two": lambda x: x + torch.div(x, x + 1, rounding_mode="floor"),
    "grouped attention": grouped_attention,
    "wobble": lambda x: torch.ops.fmritok_tests.wobble(x * 3, 2.0),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
    "scaled_dot_product_attention": masked_attention,
    "amax": lambda x: x * x.amax((2, 3), keepdim=True),
    "where": lambda x: torch.where(torch.arange(96) % 2 == 0, x, x.sqrt() * 2),
}


@pytest.mark.parametrize("name", UNKNOWN)
@torch.inference_mode()
def test_what_has_no_rule_is_computed_in_fp32_on_base_and_deviation(name, images):
    """As exactly as fp32 has it, before and after steps with rules."""
    bases, deviations = images
    encode = lambda x: torch.relu(UNKNOWN[name](x.pow(2) + 1))  # noqa: E731
    encoder = DeltaEncoder(encode)
    base = encoder.base(bases[:1])
    with pytest.warns(UserWarning, match="no rule for .* computed in float32 on base and"):
        found = encoder.deviations(base.notes_of(0), deviations)
    exact = encode((bases[:1] + deviations).double()) - encode(bases[:1].double())
    assert found.dtype == torch.float32
    assert exact.abs().max() > 1e-3
    assert (found - exact).abs().max() < 1e-5 * encode(bases[:1].double()).abs().max()


IN_PLACE = {
    "add_": lambda x: (x * 2).add_(1),
    "setitem": lambda x: x.__setitem__(slice(0, 1), 0),
    "gt": lambda x: x * (x > 0),
    "item": lambda x: x * x.sum().item(),
    "relu in place": lambda x: torch.nn.functional.relu(x * 2, inplace=True),
    "silu in place": torch.nn.SiLU(inplace=True),
    "mish in place": torch.nn.Mish(inplace=True),
}


@pytest.mark.parametrize("name", IN_PLACE)
@torch.inference_mode()
def test_what_cannot_be_carried_is_refused_instead_of_being_wrong(name, images):
    with pytest.raises(FmritokError, match=f"got {name}. Use --arithmetic fp32"):
        DeltaEncoder(IN_PLACE[name]).base(images[0])
