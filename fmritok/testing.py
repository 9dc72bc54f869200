"""Contract tests of tokenizers, for other distributions to inherit.

::

    from fmritok.testing import VolumeTokenizerContract

    class TestMine(VolumeTokenizerContract):
        @pytest.fixture
        def tokenizer(self):
            return MyTokenizer()
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from fmritok.tokenizers.base import SeriesTokenizer, VolumeTokenizer
from fmritok.tokenizers.grid import AFFINE, SHAPE
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.vae.intensity import Intensity, VolumeStatistics


class VolumeTokenizerContract:
    """Contract of tokenizers of volumes: inherit and override the fixture ``tokenizer``."""

    @pytest.fixture
    def tokenizer(self) -> VolumeTokenizer:
        raise AssertionError("a contract test gives its own tokenizer")

    @pytest.fixture
    def frames(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        frames = np.zeros((3, 96, 96, 96), np.float32)
        frames[:, 20:70, 15:80, 25:60] = rng.uniform(100, 900, (3, 50, 65, 35))
        return frames

    @pytest.fixture
    def intensity(self, tokenizer: VolumeTokenizer, frames: np.ndarray) -> Intensity:
        return tokenizer.fit(VolumeStatistics(float(frames.max()), frames.mean(0), frames.std(0)))

    def test_provenance_is_plain_and_stable(self, tokenizer: VolumeTokenizer) -> None:
        found = tokenizer.provenance()
        assert json.loads(json.dumps(found)) == json.loads(json.dumps(tokenizer.provenance()))
        assert found["tokenizer"] == tokenizer.name

    def test_tokens_have_the_shape_of_the_grid(
        self, tokenizer: VolumeTokenizer, frames: np.ndarray, intensity: Intensity
    ) -> None:
        tokenizer.setup()
        tokens = tokenizer.encode(frames, intensity)
        grid = tokenizer.grid
        assert tokens.shape == (3, grid.n_tokens, grid.dim)
        assert tokens.dtype == np.float32
        assert np.isfinite(tokens).all()
        assert grid.coordinates.shape == (grid.n_tokens, 3)

    def test_encoding_does_not_depend_on_the_block(
        self, tokenizer: VolumeTokenizer, frames: np.ndarray, intensity: Intensity
    ) -> None:
        tokenizer.setup()
        together = tokenizer.encode(frames, intensity)
        alone = np.concatenate([tokenizer.encode(f[None], intensity) for f in frames])
        np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)

    def test_encoding_leaves_its_input_alone(
        self, tokenizer: VolumeTokenizer, frames: np.ndarray, intensity: Intensity
    ) -> None:
        tokenizer.setup()
        before = frames.copy()
        tokenizer.encode(frames, intensity)
        np.testing.assert_array_equal(frames, before)

    def test_the_intensity_map_is_restored_from_what_is_stored(
        self, tokenizer: VolumeTokenizer, frames: np.ndarray, intensity: Intensity
    ) -> None:
        restored = tokenizer.restore(intensity.scalars, intensity.arrays)
        np.testing.assert_array_equal(restored.forward(frames), intensity.forward(frames))
        assert set(intensity.arrays) == set(tokenizer.run_arrays)


class SeriesTokenizerContract:
    """Contract of tokenizers of time courses: the fixture ``tokenizer`` must accept volumes."""

    @pytest.fixture
    def tokenizer(self) -> SeriesTokenizer:
        raise AssertionError("a contract test gives its own tokenizer")

    @pytest.fixture
    def places(self, tokenizer: SeriesTokenizer) -> SparseMap:
        tokenizer.setup()
        return tokenizer.places(VolumeSpace(SHAPE, AFFINE))

    @pytest.fixture
    def series(self, places: SparseMap) -> np.ndarray:
        rng = np.random.default_rng(0)
        return rng.normal(500, 10, (places.shape[0], 120)).astype(np.float32)

    def test_provenance_is_plain_and_stable(self, tokenizer: SeriesTokenizer) -> None:
        found = tokenizer.provenance()
        assert json.loads(json.dumps(found)) == json.loads(json.dumps(tokenizer.provenance()))
        assert found["tokenizer"] == tokenizer.name

    def test_tokens_have_the_shape_of_the_grid(
        self, tokenizer: SeriesTokenizer, places: SparseMap, series: np.ndarray
    ) -> None:
        made = tokenizer.encode_series(series, 2.0, places, places.counts)
        tokens = np.concatenate(list(made.blocks))
        n_frames, tr = tokenizer.timing(120, 2.0)
        grid = tokenizer.grid
        assert tokens.shape == (n_frames, grid.n_tokens, grid.dim)
        assert tr > 0
        assert tokens.dtype == np.float32
        assert np.isfinite(tokens).all()
        assert grid.coordinates.shape == (grid.n_tokens, 3)
        assert {k: v.shape for k, v in made.arrays.items()} == dict(tokenizer.run_arrays)

    def test_the_map_of_a_space_is_built_once(
        self, tokenizer: SeriesTokenizer, places: SparseMap
    ) -> None:
        assert tokenizer.places(VolumeSpace(SHAPE, AFFINE.copy())) is places

    def test_what_is_static_says_so_in_the_layout(self, tokenizer: SeriesTokenizer) -> None:
        assert set(tokenizer.grid.static) == set(tokenizer.grid.layout.get("static", {}))
