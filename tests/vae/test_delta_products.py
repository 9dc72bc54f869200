"""Products of deviations and weights stay within fp16, and lose little."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from fmritok.tokenizers.vae import delta_products, delta_walk
from fmritok.tokenizers.vae.delta import DeltaEncoder
from fmritok.tokenizers.vae.delta_products import HalfProducts


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_products_stay_within_fp16_for_large_and_small_numbers():
    """The factor of a frame comes from this frame and the weights, not from other frames."""
    conv, product = torch.nn.functional.conv2d, HalfProducts()
    weight = torch.randn(8, 16, 3, 3)
    x = torch.randn(4, 16, 9, 9) * torch.tensor([1e-12, 1, 1e6, 0]).view(4, 1, 1, 1)
    for scale in (1e-9, 1, 1e9):
        weights = weight * scale
        found = product(conv, x, weights, (1, 1))
        exact = conv(x.double(), weights.double(), None, 1, 1)
        for frame in range(3):
            assert error(found[frame], exact[frame]) < 1e-3
        assert not found[3].any()
        alone = product(conv, x[:1], weights, (1, 1))
        bound = lambda: 3 * x.abs().amax((1, 2, 3), keepdim=True)  # noqa: E731
        assert error(product(conv, x, weights, (1, 1), bound)[:3], found[:3]) < 1e-3
        assert error(found[:1], alone) < 1e-3  # of another batch size, hence another order of sums
    assert error(conv(x.half(), weight.half(), None, 1, 1)[0].double(), exact[0] / 1e9) > 0.5


def test_a_product_as_large_as_its_weights_allow_stays_within_fp16():
    """All numbers and weights have one sign and size, so nothing cancels in the sums."""
    for size in (1e-6, 1.0, 1e6):
        x, weight = torch.full((2, 16, 4, 4), size), torch.full((3, 16, 1, 1), 0.5)
        found = HalfProducts()(torch.nn.functional.conv2d, x, weight, ())
        torch.testing.assert_close(found, torch.full((2, 3, 4, 4), 8 * size), rtol=1e-3, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("step", [torch.relu, torch.nn.functional.silu, torch.tanh])
def test_a_product_after_a_step_of_known_slope_does_not_measure_what_it_gets(step):
    """On a GPU that would compute the step twice."""
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    measured = []

    def measure(x, channels=1):
        measured.append(x)
        return x.abs().amax((1, 2, 3), keepdim=True)

    encoder = DeltaEncoder(lambda x: torch.nn.functional.conv2d(step(x), weight))
    notes = encoder.base(x[:1]).notes_of(0)
    with (
        mock.patch.object(delta_products, "magnitude", measure),
        mock.patch.object(delta_walk, "magnitude", measure),
    ):
        encoder.deviations(notes, x)
    [read] = measured
    assert torch.equal(read, x) == (step is not torch.tanh)
