"""The embedded autoencoder: it loads by diffusers alone and beats codes of the same length."""

from __future__ import annotations

from collections.abc import Iterator

import evaluate
import photos
import pytest
import torch
import train
from diffusers import AutoencoderDC
from safetensors.torch import load_file

FOLDER = evaluate.HERE
WEIGHTS = "diffusion_pytorch_model.safetensors"
BASELINES = ("pca", "down")


@pytest.fixture(scope="module")
def grey() -> dict[str, evaluate.Codec]:
    return evaluate.make_codecs(FOLDER, colour=False, crops=800)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_loads_by_diffusers_alone():
    model = AutoencoderDC.from_pretrained(FOLDER).eval()
    images = torch.rand(2, 3, 96, 96) * 2 - 1
    with torch.inference_mode():
        latent = model.encode(images).latent
        out = model.decode(latent).sample
    assert latent.shape == (2, 32, 3, 3)
    assert latent.dtype == torch.float32
    assert out.shape == images.shape
    assert out.isfinite().all()
    assert model.spatial_compression_ratio == 32


def test_is_small_half_precision_and_finite():
    assert (FOLDER / WEIGHTS).stat().st_size < 8e6
    weights = load_file(FOLDER / WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in weights.values())


def test_photographs_are_installed_and_split():
    assert not set(photos.TRAIN_PHOTOS) & set(photos.HELD_OUT_PHOTOS)
    for name in (*photos.TRAIN_PHOTOS, *photos.HELD_OUT_PHOTOS):
        assert photos.load_photo(name).shape[2] == 3


def test_beats_shrinking_on_held_out_photographs():
    codecs = {"dcae": evaluate.Autoencoder(FOLDER), "down": evaluate.Downsample(False)}
    scores = evaluate.measure_photos(codecs, evaluate.held_out_crops(colour=False, per_photo=12))
    for measure, value in scores["dcae"].items():
        assert value > scores["down"][measure], measure


@pytest.mark.slow
def test_beats_all_baselines_on_held_out_photographs(grey):
    scores = evaluate.measure_photos(grey, evaluate.held_out_crops(colour=False, per_photo=24))
    for baseline in BASELINES:
        for measure, value in scores["dcae"].items():
            assert value > scores[baseline][measure], (baseline, measure)


@pytest.mark.slow
def test_beats_baselines_on_fmri(grey, data):
    scores = evaluate.measure_fmri(grey, data / "bold_mni", frames=4)
    assert len(scores) == 4  # two runs, two intensity modes
    for name, by_codec in scores.items():
        for baseline in BASELINES:
            for measure, value in by_codec["dcae"].items():
                assert value > by_codec[baseline][measure], (name, baseline, measure)


@pytest.mark.slow
def test_training_is_reproducible(tmp_path, threads):
    for name in "ab":
        train.train(tmp_path / name, steps=3, seed=0, pairs=2, start_pairs=8)
    a, b = (load_file(tmp_path / name / WEIGHTS) for name in "ab")
    assert all(value.isfinite().all() for value in a.values())
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_card_matches_the_weights():
    card = (FOLDER / "README.md").read_text()
    assert "stand-in" in card
    scaling = AutoencoderDC.load_config(FOLDER)["scaling_factor"]
    assert f"| {scaling} (1 / latent RMS" in card
