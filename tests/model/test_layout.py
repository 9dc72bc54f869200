"""Cells and patches of every kind of token group; embeddings equal to their float64 definitions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model.embeddings import LongConvolution, NetworkEmbedding
from fmritok.trainer.model.inputs import frame_norm
from fmritok.trainer.model.layout import PatchGrid, TokenLayout

NETWORK = np.array([0, 0, 0, 1, 2, 2], np.int32)
MASK = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]], bool)


def _group(dim=1, **arrays):
    def array(name):
        return arrays[name]

    return SimpleNamespace(name="g", n_tokens=6, dim=dim, array=array, provenance={})


def test_the_kind_of_a_group_follows_from_its_static_arrays():
    kinds = {"plain": ({}, 1), "flatmap": ({"pixel_mask": MASK}, 4)}
    for kind, (arrays, patch) in {**kinds, "network": ({"network": NETWORK}, 8)}.items():
        layout = TokenLayout.of(_group(**arrays), patch=None, window=32)
        assert (layout.kind, layout.patch, layout.has_mean) == (kind, patch, kind == "plain")
    assert TokenLayout.of(_group(network=NETWORK), patch=None, window=180).patch == 20
    assert TokenLayout.of(_group(network=NETWORK), patch=5, window=32).patch == 5
    with pytest.raises(ConfigError, match=r"model\.patch: expected at most data\.window = 32"):
        TokenLayout.of(_group(), patch=33, window=32)
    with pytest.raises(ConfigError, match="one feature for each parcel, got 3"):
        TokenLayout.of(_group(dim=3, network=NETWORK), patch=None, window=32)


@pytest.mark.parametrize("frames", [6, 7, 1])
def test_patches_hold_whole_frames_in_order_and_zeros_behind_the_end(frames):
    x = torch.randn(2, frames, 3, 4)
    grid = PatchGrid(TokenLayout(3, 4, 3))
    folded = grid.fold(x)
    assert folded.shape == (2, -(-frames // 3), 3, 12)
    for t in range(folded.shape[1] * 3):
        part = folded[:, t // 3, :, t % 3 * 4 : t % 3 * 4 + 4]
        assert torch.equal(part, x[:, t] if t < frames else torch.zeros_like(part))
    ones = grid.fold_frames(torch.ones(2, frames))
    assert ones.sum() == 2 * frames
    assert ones.flatten(1)[:, :frames].all()


def test_networks_gather_their_parcels():
    x = torch.arange(1.0, 13.0).view(1, 2, 6, 1)
    grid = PatchGrid(TokenLayout(6, 1, 2, network=NETWORK))
    assert (grid.n_cells, grid.n_features, grid.complete) == (3, 6, False)
    assert grid.known.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert grid.fold(x)[0, 0].tolist() == [
        [1, 2, 3, 7, 8, 9], [4, 0, 0, 10, 0, 0], [5, 6, 0, 11, 12, 0],
    ]  # fmt: skip


def test_a_network_is_where_its_parcels_are_in_the_mean():
    centres = np.arange(18.0).reshape(6, 3)
    plain, network = (
        PatchGrid(TokenLayout(6, 1, 2, network=which, coordinates=centres))
        for which in (None, NETWORK)
    )
    assert torch.equal(plain.coordinates.double(), torch.from_numpy(centres))
    assert network.coordinates.tolist() == [[3, 4, 5], [9, 10, 11], [13.5, 14.5, 15.5]]
    places = network.positions(torch.tensor([[0.72, 5.0]]), torch.tensor([[2, 0]]))
    torch.testing.assert_close(places, torch.tensor([[[0.72, 13.5, 14.5, 15.5], [5, 3, 4, 5]]]))
    assert PatchGrid(TokenLayout(6, 1, network=NETWORK)).coordinates.tolist() == [[0, 0, 0]] * 3


def test_frames_are_standardised_over_what_exists_and_clipped():
    known = torch.from_numpy(MASK)
    x = torch.randn(1, 3, 3, 4) * 5 + 2
    x[:, :, ~known] = 77.0  # must not count
    x[0, 1, 2, 3] = 1e4
    x[0, 2] = 0
    got = frame_norm(x, known)
    for t in range(2):
        values = x[0, t].double()[known]
        z = ((values - values.mean()) / values.std()).clamp(-3, 3)
        torch.testing.assert_close(got[0, t][known].double(), z, rtol=1e-5, atol=1e-5)
    assert got.abs().max() <= 3
    assert (got[:, :, ~known] == 0).all()
    assert (got[0, 2] == 0).all()


def test_long_kernels_have_the_published_lags_and_decay():
    module = LongConvolution(2, heads=3, length=20)
    with torch.no_grad():
        module.kernels.fill_(1.0)
        module.start_norm.fill_(1.0)
    kernel = module.kernel()
    assert kernel.shape == (2, 3, 16)
    assert kernel[0, 0].tolist() == [4.0] * 4 + [2.0] * 4 + [1.0] * 8
    for length, taps in ((8, 8), (5, 4), (3, 3), (1, 1), (40, 32)):
        assert LongConvolution(1, heads=1, length=length).kernel().shape[-1] == taps
    norms = LongConvolution(2, heads=3, length=20).kernel().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2, 3))


@pytest.mark.parametrize(("causal", "ahead"), [(False, 8), (True, 0)])
def test_a_long_convolution_equals_its_sum_over_taps(causal, ahead):
    torch.manual_seed(0)
    module = LongConvolution(2, heads=3, length=20, causal=causal).double()
    assert module.skip.shape == ((3,) if causal else (2, 3))
    x = torch.randn(4, 2, 20, dtype=torch.float64)
    kernel, expected = module.kernel(), torch.zeros(4, 2, 3, 20, dtype=torch.float64)
    for t in range(20):
        for tap in range(16):
            if 0 <= t + ahead - tap < 20:
                expected[..., t] += kernel[..., tap] * x[:, :, None, t + ahead - tap]
    expected += module.skip[..., None] * x[:, :, None]
    torch.testing.assert_close(module(x), expected.flatten(1, 2))


def test_each_network_is_embedded_from_its_own_parcels():
    torch.manual_seed(0)
    layout = TokenLayout(6, 1, 8, network=NETWORK)
    embedding, grid = NetworkEmbedding(layout, 16), PatchGrid(layout)
    x = torch.randn(2, 16, 6, 1)
    tokens = embedding(grid.fold(x))
    assert tokens.shape == (2, 2, 3, 16)
    changed = x.clone()
    changed[:, 8:, 3] += 1  # network 1, second patch
    differs = (embedding(grid.fold(changed)) - tokens).abs().amax((0, -1)) > 1e-6
    assert differs.tolist() == [[False] * 3, [False, True, False]]
    tokens.sum().backward()
    assert all(p.grad is not None for p in embedding.parameters())
