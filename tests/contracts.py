"""What every tokenizer promises; a third party's tests inherit these."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.intensity import VolumeStatistics


class TokenizerContract:
    """Inherit, and give a fixture ``tokenizer`` that builds yours."""

    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        raise AssertionError("a contract test gives its own tokenizer")

    @pytest.fixture
    def frames(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        frames = np.zeros((3, 96, 96, 96), np.float32)
        frames[:, 20:70, 15:80, 25:60] = rng.uniform(100, 900, (3, 50, 65, 35))
        return frames

    @pytest.fixture
    def intensity(self, tokenizer, frames):
        return tokenizer.fit(VolumeStatistics(float(frames.max()), frames.mean(0), frames.std(0)))

    def test_provenance_is_plain_and_stable(self, tokenizer):
        found = tokenizer.provenance()
        assert json.loads(json.dumps(found)) == json.loads(json.dumps(tokenizer.provenance()))
        assert found["tokenizer"] == tokenizer.name

    def test_tokens_have_the_shape_of_the_grid(self, tokenizer, frames, intensity):
        tokenizer.setup()
        tokens = tokenizer.encode(frames, intensity)
        grid = tokenizer.grid
        assert tokens.shape == (3, grid.n_tokens, grid.dim)
        assert tokens.dtype == np.float32
        assert np.isfinite(tokens).all()
        assert grid.coordinates.shape == (grid.n_tokens, 3)

    def test_encoding_does_not_depend_on_the_block(self, tokenizer, frames, intensity):
        tokenizer.setup()
        together = tokenizer.encode(frames, intensity)
        alone = np.concatenate([tokenizer.encode(f[None], intensity) for f in frames])
        np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)

    def test_encoding_leaves_its_input_alone(self, tokenizer, frames, intensity):
        tokenizer.setup()
        before = frames.copy()
        tokenizer.encode(frames, intensity)
        np.testing.assert_array_equal(frames, before)

    def test_the_intensity_map_is_restored_from_what_is_stored(self, tokenizer, frames, intensity):
        restored = tokenizer.restore(intensity.scalars, intensity.arrays)
        np.testing.assert_array_equal(restored.forward(frames), intensity.forward(frames))
        assert set(intensity.arrays) == set(tokenizer.run_arrays)
