"""``vae`` tokens equal the plain way: full model, three channels, every slice, axis after axis."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import save_random_autoencoder

from fmritok.errors import MachineError, WeightsError
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.testing import VolumeTokenizerContract
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.tokenizers.vae.intensity import VolumeStatistics, fit_intensity
from fmritok.tokenizers.vae.slices import latents_from_tokens, tokens_from_latents
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer
from fmritok.tokenizers.vae.weights import load_autoencoder, resolve_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_random_autoencoder(tmp_path_factory.mktemp("dc"))


@pytest.fixture(scope="module")
def real_run(data) -> RunVolumes:
    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    return RunVolumes.read(path, voxel_statistics=True)


def published_way(folder: Path, volumes: np.ndarray) -> np.ndarray:
    """Encode normalized volumes as TABLeT's script does, and gather tokens by plain loops."""
    model = diffusers_model(folder)
    n = len(volumes)
    latents = []
    for axis in range(3):
        moved = np.moveaxis(volumes, axis + 1, 1).reshape(n * 96, 1, 96, 96)
        colour = torch.from_numpy(np.ascontiguousarray(np.repeat(moved, 3, axis=1)))
        with torch.no_grad():
            parts = [model.encode(part).latent for part in colour.split(96)]
        latents.append(torch.cat(parts).reshape(n, 96, 32, 3, 3).numpy())
    tokens = np.empty((n, 3, 3, 3, 3, 32, 32), np.float32)
    for a in range(3):
        for b in range(3):
            for c in range(3):
                for s in range(32):
                    tokens[:, a, b, c, 0, s] = latents[0][:, 32 * a + s, :, b, c]
                    tokens[:, a, b, c, 1, s] = latents[1][:, 32 * b + s, :, a, c]
                    tokens[:, a, b, c, 2, s] = latents[2][:, 32 * c + s, :, a, b]
    return tokens.reshape(n, 27, 3072)


def diffusers_model(folder: Path) -> torch.nn.Module:
    from diffusers import AutoencoderDC

    return AutoencoderDC.from_pretrained(folder).eval()


@pytest.mark.parametrize("mode", ["max", "zscore"])
@pytest.mark.parametrize("which", ["random", "dcae-tiny"])
def test_tokens_equal_the_published_way_on_real_volumes(real_run, weights, mode, which):
    folder = weights if which == "random" else resolve_weights("dcae-tiny").folder
    tokenizer = VaeTokenizer(str(folder), intensity=mode)
    tokenizer.setup()
    intensity = tokenizer.fit(real_run.statistics)
    n = 2 if which == "random" else 1
    _, frames = next(real_run.blocks(n))
    tokens = tokenizer.encode(frames, intensity)
    reference = published_way(folder, intensity.forward(frames))
    error = np.abs(tokens - reference).max() / np.abs(reference).max()
    assert tokens.dtype == np.float32
    assert tokens.shape == (n, 27, 3072)
    assert error < 1e-4
    assert np.sqrt(((tokens - reference) ** 2).mean() / (reference**2).mean()) < 1e-4


def test_background_slices_are_encoded_once(real_run, weights):
    tokenizer = VaeTokenizer(str(weights))
    tokenizer.setup()
    intensity = tokenizer.fit(real_run.statistics)
    _, frames = next(real_run.blocks(2))
    normalized = intensity.forward(frames)
    drawn = sum(
        int((np.moveaxis(normalized, axis, 1) != -1).any((2, 3)).sum()) for axis in (1, 2, 3)
    )
    seen = []
    inner = tokenizer._autoencoder._encode_batch
    tokenizer._autoencoder._encode_batch = lambda s, f: seen.append(len(s)) or inner(s, f)
    tokenizer.encode(frames, intensity)
    assert sum(seen) == drawn + 1
    assert drawn < 2 * 288


def test_a_slice_does_not_depend_on_its_batch(real_run, weights):
    """The same frame gives the same bits alone and among others."""
    tokenizer = VaeTokenizer(str(weights))
    tokenizer.setup()
    intensity = tokenizer.fit(real_run.statistics)
    _, frames = next(real_run.blocks(4))
    together = tokenizer.encode(frames, intensity)
    np.testing.assert_array_equal(tokenizer.encode(frames[2:3], intensity)[0], together[2])


def test_regrouping_is_undone_exactly():
    latents = torch.randn(3, 2, 96, 5, 3, 3)
    tokens = tokens_from_latents(latents)
    assert tokens.shape == (2, 27, 3 * 32 * 5)
    torch.testing.assert_close(latents_from_tokens(tokens, 5, 3), latents, rtol=0, atol=0)


def test_no_decoder_is_loaded(weights):
    tokenizer = VaeTokenizer(str(weights))
    tokenizer.setup()
    assert tokenizer._autoencoder.model.decoder is None
    full = sum(p.numel() for p in diffusers_model(weights).parameters())
    assert sum(p.numel() for p in tokenizer._autoencoder.model.parameters()) < 0.6 * full


@pytest.mark.parametrize(("kind", "dim"), [("AutoencoderKL", 96), ("AutoencoderTiny", 96)])
def test_other_autoencoders_load_by_the_same_path(tmp_path, kind, dim, rng):
    """Factor 8 and 4 channels: 12**3 tokens of 3 * 8 * 4 features."""
    tokenizer = VaeTokenizer(str(save_random_autoencoder(tmp_path, kind)))
    assert (tokenizer.grid.n_tokens, tokenizer.grid.dim) == (1728, dim)
    tokenizer.setup()
    frames = rng.uniform(0, 100, (1, 96, 96, 96)).astype(np.float32)
    frames[:, :10] = 0
    intensity = tokenizer.fit(VolumeStatistics(100.0))
    tokens = tokenizer.encode(frames, intensity)
    assert tokens.shape == (1, 1728, 96)
    assert np.isfinite(tokens).all()
    assert tokenizer.decode(tokens, intensity).shape == frames.shape


@pytest.mark.parametrize("mode", ["max", "zscore"])
def test_intensity_is_invertible_up_to_what_it_clips(rng, mode):
    frames = rng.uniform(0, 200, (6, 96, 96, 96)).astype(np.float32)
    mean, std = frames.mean(0), frames.std(0)
    mean[0], std[0], frames[:, 0] = 5, 0, 5
    intensity = fit_intensity(mode, VolumeStatistics(float(frames.max()), mean, std))
    normalized = intensity.forward(frames)
    assert normalized.min() >= -1
    assert normalized.max() <= 1
    np.testing.assert_allclose(intensity.inverse(normalized), frames, atol=1e-3)


def test_max_intensity_is_the_published_formula():
    frames = np.array([-3.0, 0, 5, 10], np.float32)
    intensity = fit_intensity("max", VolumeStatistics(10.0))
    np.testing.assert_array_equal(intensity.forward(frames), [-1, -1, 0, 1])


def test_decoding_the_embedded_autoencoder_gives_the_brain_back(real_run):
    tokenizer = VaeTokenizer()
    tokenizer.setup()
    intensity = tokenizer.fit(real_run.statistics)
    _, frames = next(real_run.blocks(1))
    decoded = tokenizer.decode(tokenizer.encode(frames, intensity), intensity)
    brain = real_run.statistics.mean > 0
    correlation = np.corrcoef(decoded[0][brain], frames[0][brain])[0, 1]
    assert correlation > 0.8


def test_pickled_weights_are_refused(weights, tmp_path):
    shutil.copy(weights / "config.json", tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"got diffusion_pytorch_model\.bin.*never loaded"):
        _ = resolve_weights(str(tmp_path)).files


def test_damaged_and_foreign_weights_are_refused(weights, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(weights, folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="whole safetensors file"):
        load_autoencoder(resolve_weights(str(folder)), decoder=False)
    file.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    config["encoder_block_out_channels"] = [8, 8, 16, 16, 32, 64]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="belong to different models"):
        load_autoencoder(resolve_weights(str(folder)), decoder=False)
    config["_class_name"] = "UNet2DModel"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="got UNet2DModel"):
        _ = resolve_weights(str(folder)).config
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        _ = resolve_weights(str(folder)).config


def test_hub_ids_resolve_offline_from_the_cache(weights, tmp_path, monkeypatch):
    """A fetched snapshot is found without the network, with the commit it resolved to."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--lab--autoencoder"
    shutil.copytree(weights, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = resolve_weights("lab/autoencoder")
    assert found.revision == commit
    assert resolve_weights("lab/autoencoder", commit).sha256 == found.sha256
    with pytest.raises(WeightsError, match="fmritok fetch weights lab/other"):
        resolve_weights("lab/other")
    with pytest.raises(WeightsError, match="got nothing of that name"):
        resolve_weights("./missing")


def with_memory_for(tokenizer, slices: int, sizes: list[int]):
    """Let the encoder run out of memory above a number of slices; note the sizes that it got."""
    model, encode = tokenizer._autoencoder.model, tokenizer._autoencoder.model.encode

    def limited(x):
        sizes.append(len(x))
        if len(x) > slices:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(x)

    model.encode = limited
    return tokenizer


def some_frames(rng) -> np.ndarray:
    frames = np.zeros((2, 96, 96, 96), np.float32)
    frames[:, 40:50, 40:50, 40:50] = rng.uniform(1, 100, (2, 10, 10, 10))
    return frames


def test_out_of_memory_halves_the_batch_and_gives_the_tokens_of_the_smaller_one(weights, rng):
    frames, fit = some_frames(rng), fit_intensity("max", VolumeStatistics(100.0))
    small = VaeTokenizer(str(weights), batch_size=4)
    small.setup()
    expected = small.encode(frames, fit)
    sizes: list[int] = []
    tokenizer = VaeTokenizer(str(weights), batch_size=16)
    tokenizer.setup()
    with_memory_for(tokenizer, 16, sizes).encode(frames, fit)  # a background of full batches
    tokenizer.setup()
    sizes.clear()
    with_memory_for(tokenizer, 5, sizes)
    np.testing.assert_array_equal(tokenizer.encode(frames, fit), expected)
    assert sizes[:2] == [16, 8]
    assert set(sizes[2:]) == {4}
    sizes.clear()
    np.testing.assert_array_equal(tokenizer.encode(frames, fit), expected)
    assert set(sizes) == {4}  # the smaller size is remembered
    assert tokenizer.notes()["batch_size"] == 16


def test_no_memory_for_one_slice_is_the_machine_s_fault(weights, rng):
    tokenizer = VaeTokenizer(str(weights))
    tokenizer.setup()
    sizes: list[int] = []
    with_memory_for(tokenizer, 0, sizes)
    with pytest.raises(MachineError, match=r"a batch of 1 slice.*CUDA out of memory.*--device cpu"):
        tokenizer.encode(some_frames(rng), fit_intensity("max", VolumeStatistics(100.0)))
    assert sizes == [16, 8, 4, 2, 1]


def test_other_errors_do_not_change_the_batch(weights, rng):
    tokenizer = VaeTokenizer(str(weights))
    tokenizer.setup()
    calls = []

    def broken(x):
        calls.append(len(x))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    tokenizer._autoencoder.model.encode = broken
    with pytest.raises(RuntimeError, match="illegal memory access"):
        tokenizer.encode(some_frames(rng), fit_intensity("max", VolumeStatistics(100.0)))
    assert calls == [16]


class TestVaeContract(VolumeTokenizerContract):
    """``vae`` keeps what every tokenizer promises."""

    @pytest.fixture
    def tokenizer(self, weights):
        return build_tokenizer("vae", {"weights": str(weights)})
