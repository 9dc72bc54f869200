"""Contract tests of tokenizers and objectives, for other distributions to inherit.

::

    from fmritok.testing import VolumeTokenizerContract

    class TestMine(VolumeTokenizerContract):
        @pytest.fixture
        def tokenizer(self):
            return MyTokenizer()
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fmritok.tokenizers.base import SeriesTokenizer, VolumeTokenizer
from fmritok.tokenizers.grid import AFFINE, SHAPE
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.vae.intensity import Intensity, VolumeStatistics
from fmritok.trainer.config import ModelConfig, ObjectiveConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import ObjectiveModule, ObjectiveOutput


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


class ObjectiveContract:
    """Inherit, and give a fixture ``objective`` that returns your class."""

    @pytest.fixture
    def objective(self) -> Any:
        raise AssertionError("a contract test gives its own objective")

    @pytest.fixture
    def config(self, objective: Any) -> ObjectiveConfig:
        """Return the options to test with; by default all defaults."""
        config: ObjectiveConfig = objective.Config()
        return config

    @pytest.fixture
    def layout(self) -> TokenLayout:
        return TokenLayout(6, 4)

    @pytest.fixture
    def model(
        self, objective: Any, config: ObjectiveConfig, layout: TokenLayout
    ) -> ObjectiveModule:
        return _objective(objective, config, layout, seed=0)

    @pytest.fixture
    def batch(self, layout: TokenLayout) -> Batch:
        """Return two windows, the second of which is shorter and padded."""
        generator = torch.Generator().manual_seed(0)
        valid = torch.arange(12) < torch.tensor([12, 7])[:, None]
        shape = (2, 12, layout.n_tokens, layout.dim)
        tokens = torch.randint(-99, 99, shape, generator=generator) * valid[..., None, None]
        std = 0.1 + torch.rand(2, *shape[2:], generator=generator)
        return Batch(
            tokens.to(torch.int8), 3 + std, std, std / 50, torch.arange(12).expand(2, 12) * 0.72,
            valid, torch.arange(2), torch.tensor([11, 22]), 0, 2, 19,
        )  # fmt: skip

    def test_options_are_frozen_plain_and_have_defaults(self, config: ObjectiveConfig) -> None:
        assert isinstance(config, ObjectiveConfig)
        with pytest.raises(AttributeError):
            config.name = "another"  # type: ignore[misc]
        written = yaml.safe_load(yaml.safe_dump(asdict(config)))
        assert type(config)(**written) == config

    def test_the_loss_trains_the_model(self, model: ObjectiveModule, batch: Batch) -> None:
        output: ObjectiveOutput = model(batch, progress=0.0)
        assert output.loss.n_values > 0
        assert torch.isfinite(output.loss.value)
        output.loss.total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)
        model.after_step(0.5)

    def test_random_numbers_follow_from_the_windows_own(
        self, model: ObjectiveModule, batch: Batch
    ) -> None:
        losses = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            np.random.seed(seed)
            losses.append(model(batch).loss.total.item())
        assert losses[0] == losses[1]

    def test_measures_are_there_when_asked_for(self, model: ObjectiveModule, batch: Batch) -> None:
        assert model(batch).measures == {}
        measures = model(batch, measure=True).measures
        for figure in model.figures:
            assert {figure.name, figure.trivial} <= measures.keys()
        for mean in measures.values():
            assert torch.isfinite(mean.value)
            assert not mean.total.requires_grad

    def test_an_encoder_comes_of_it(self, model: ObjectiveModule) -> None:
        assert isinstance(model.encoder, TokenTransformer)
        assert isinstance(model.features, TokenTransformer)
        assert 1 <= model.window <= 12

    def test_weights_are_all_that_is_saved(
        self,
        objective: Any,
        config: ObjectiveConfig,
        layout: TokenLayout,
        model: ObjectiveModule,
        batch: Batch,
    ) -> None:
        other = _objective(objective, replace(config), layout, seed=1)
        other.load_state_dict(model.state_dict())
        assert other(batch).loss.total.item() == model(batch).loss.total.item()


def _objective(
    kind: Any, config: ObjectiveConfig, layout: TokenLayout, seed: int
) -> ObjectiveModule:
    small = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, mlp_width=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: ObjectiveModule = kind(TokenTransformer(small, layout), config, window=12)
    return model
