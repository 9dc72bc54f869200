"""The sparse product equals a plain one in float64, whatever the shape of the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from fmritok.tokenizers.sampling import trilinear
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap


def random_map(rng, places=300, samples=1000, density=0.01):
    matrix = scipy.sparse.random_array((places, samples), density=density, rng=rng, format="csr")
    matrix.data -= 0.5
    return matrix


@pytest.mark.parametrize("n_frames", [1, 7, 64, 130])
def test_the_product_equals_float64(rng, n_frames):
    matrix = random_map(rng)
    samples = rng.normal(1000, 30, (1000, n_frames)).astype(np.float32)
    exact = matrix @ samples.astype(np.float64)
    found = SparseMap(matrix).apply(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-4 * np.abs(exact).max() / 50)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_frames_as_files_hold_them_give_the_same(rng, dtype):
    matrix = random_map(rng)
    block = rng.integers(0, 200, (20, 1000)).astype(dtype)
    exact = matrix @ block.T.astype(np.float64)
    np.testing.assert_allclose(SparseMap(matrix).apply_to_frames(block), exact, atol=2e-4)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32])
def test_means_equal_float64(rng, dtype):
    """Parcels of any size, also empty ones, of any stored type."""
    sizes = rng.integers(0, 400, 50)
    sizes[[0, 7, -1]] = 0
    members = [rng.choice(5000, n, replace=False) for n in sizes]
    weights = np.repeat(1 / np.maximum(sizes, 1), sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    matrix = scipy.sparse.csr_array((weights, np.concatenate(members), offsets), (50, 5000))
    block = rng.integers(0, 30_000, (9, 5000)).astype(dtype)
    exact = [[block[t, m].astype(np.float64).mean() if len(m) else 0 for t in range(9)]
             for m in members]  # fmt: skip
    np.testing.assert_allclose(SparseMap(matrix).apply_to_frames(block), exact, rtol=2e-6)


def test_places_without_samples_are_zero(rng):
    matrix = scipy.sparse.csr_array((np.ones(2), ([1, 1], [3, 4])), shape=(4, 6))
    samples = rng.standard_normal((6, 5)).astype(np.float32)
    found = SparseMap(matrix).apply(samples)
    np.testing.assert_array_equal(found[[0, 2, 3]], 0)
    np.testing.assert_allclose(found[1], samples[3] + samples[4], rtol=1e-6)


def test_signal_counts_samples_that_are_not_always_zero():
    matrix = scipy.sparse.csr_array(np.array([[1.0, 1, 0, 1], [0, 0, 1, 0]]))
    block = np.array([[0, 5, 0, 0], [0, 5, 0, 3]])
    np.testing.assert_array_equal(SparseMap(matrix).signal(block), [2, 0])
    np.testing.assert_array_equal(SparseMap(matrix).signal(block, zero=5), [2, 1])


def test_equal_maps_have_equal_digests(rng):
    matrix = random_map(rng)
    assert SparseMap(matrix).sha256 == SparseMap(matrix.tocoo()).sha256
    assert SparseMap(matrix).sha256 != SparseMap(2 * matrix).sha256


def test_trilinear_sampling_reproduces_a_linear_function(rng):
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    space = VolumeSpace((91, 109, 91), affine)
    ijk = np.indices(space.shape).reshape(3, -1, order="F").T
    mm = ijk @ affine[:3, :3].T + affine[:3, 3]
    points = rng.uniform([-80, -110, -60], [80, 80, 100], (500, 3))
    found = trilinear(space, points) @ (mm @ [1.0, -2.0, 0.5] + 3)
    np.testing.assert_allclose(found, points @ [1.0, -2.0, 0.5] + 3, atol=1e-9)
    beyond = trilinear(space, np.array([[500.0, 0, 0]]))
    assert beyond.nnz == 0
