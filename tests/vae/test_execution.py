"""What the user leaves open is chosen by the device, in one place; it is recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from autoencoders import save_random_autoencoder

from fmritok.errors import FmritokError
from fmritok.tokenizers.vae import execution
from fmritok.tokenizers.vae.execution import Execution, choose_arithmetic, choose_execution
from fmritok.tokenizers.vae.intensity import VolumeStatistics
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer


@pytest.fixture
def a_gpu(monkeypatch):
    monkeypatch.setattr(execution, "count_gpus", lambda: 1)
    monkeypatch.setattr(execution, "compiles_by_default", lambda device: device.type == "cuda")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(execution, "count_gpus", lambda: 0)


def choose(arithmetic, device="auto", batch_size=None, compile=None) -> Execution:
    return choose_execution(arithmetic, device, batch_size=batch_size, compile=compile)


def test_a_cpu_takes_true_fp32_in_small_batches(no_gpu):
    assert choose_arithmetic("auto", "auto") == "fp32"
    assert choose("fp32") == Execution("fp32", "cpu", 16, 8, False, False, False)
    assert choose("bf16") == Execution("bf16", "cpu", 16, 8, True, False, False)
    assert choose("delta") == Execution("delta", "cpu", 16, 64, False, False, False)


def test_a_gpu_takes_delta_in_large_batches(a_gpu):
    assert choose_arithmetic("auto", "auto") == choose_arithmetic("auto", "cuda:1") == "delta"
    assert choose_arithmetic("auto", "cpu") == "fp32"
    assert choose("delta") == Execution("delta", "cuda", 128, 512, True, True, True)
    assert choose("fp32", "cuda:1") == Execution("fp32", "cuda", 288, 8, False, False, True)
    assert not choose("delta", compile=False).tries_kernels
    assert choose("bf16", "cuda") == Execution("bf16", "cuda", 288, 8, True, True, True)


def test_what_the_user_says_is_done(a_gpu):
    assert choose_arithmetic("fp32", "cuda") == "fp32"
    found = choose("bf16", batch_size=5, compile=False)
    assert (found.batch_size, found.compile) == (5, False)


@pytest.mark.parametrize("device", ["cuda:-1", "cuda:x", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_where_it_is_to_compute(device, tmp_path, monkeypatch):
    def ask(device):
        raise AssertionError("Invalid device id")  # as torch does

    monkeypatch.setattr(execution, "compiles_by_default", ask)
    weights = str(save_random_autoencoder(tmp_path))
    tokenizer = VaeTokenizer(weights, arithmetic="delta", device=device)
    assert not tokenizer.execution.compile
    with pytest.raises(FmritokError, match=f"Option device: .*'{device}'"):
        tokenizer.setup()


def test_an_error_is_measured_without_compiling(a_gpu, tmp_path, monkeypatch):
    """Compiling, or trying kernels, takes longer than the few slices that are encoded."""
    ways = []

    def latents(self, frames, intensity, some):
        ways.append((self.arithmetic, self.execution, self.clip))
        return np.random.default_rng(0).random((3, len(frames), 8, 1, 2, 2))

    monkeypatch.setattr(VaeTokenizer, "latents", latents)
    weights = str(save_random_autoencoder(tmp_path))
    tokenizer = VaeTokenizer(weights, arithmetic="bf16", batch_size=7, clip=3.0)
    assert tokenizer.execution.compile
    tokenizer.measure_error(np.zeros((2, 96, 96, 96), np.float32), None)
    for arithmetic, found, clip in ways:
        assert (found.compile, found.tries_kernels) == (False, False)
        assert (found.arithmetic, found.batch_size, clip) == (arithmetic, 7, 3.0)
    assert [way[0] for way in ways] == ["bf16", "fp32"]


def test_choices_are_in_the_notes_and_the_arithmetic_in_provenance_and_options(a_gpu, tmp_path):
    tokenizer = VaeTokenizer(str(save_random_autoencoder(tmp_path)))
    assert tokenizer.provenance()["dtype"] == tokenizer.decided["arithmetic"] == "delta"
    assert tokenizer.notes() | choose("delta").notes() == tokenizer.notes()
    assert tokenizer.notes()["device"] == "cuda"
    assert tokenizer.block_frames == 512


def test_volumes_are_normalized_sliced_and_regrouped_on_the_device(tmp_path, rng, monkeypatch):
    """What is sent are volumes; what is fetched are tokens."""
    from fmritok.tokenizers.vae import tokenizer as module

    moved = []
    monkeypatch.setattr(module, "send", lambda x, to: moved.append(tuple(x.shape)) or x.to(to))
    monkeypatch.setattr(module, "fetch", lambda x: moved.append(tuple(x.shape)) or x)
    tokenizer = VaeTokenizer(str(save_random_autoencoder(tmp_path)), batch_size=8)
    tokenizer.setup()
    frames = np.zeros((2, 96, 96, 96), np.float32)
    frames[:, 40:44, 40:44, 40:44] = rng.uniform(1, 9, (2, 4, 4, 4))
    tokenizer.encode(frames, tokenizer.fit(VolumeStatistics(9.0)))
    assert moved == [(2, 96, 96, 96), (2, 27, 3072)]


def test_setup_compiles_delta_and_the_tokens_stay_the_same(tmp_path, rng, monkeypatch):
    """The compiler itself is left out: it takes a minute."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda chain, **_: compiled.append(chain) or chain)
    weights = str(save_random_autoencoder(tmp_path))
    frames = np.zeros((3, 96, 96, 96), np.float32)
    frames[:, 40:44, 40:44, 40:44] = rng.uniform(1, 9, (3, 4, 4, 4))
    found = []
    for compile in (False, True):
        tokenizer = VaeTokenizer(weights, arithmetic="delta", batch_size=2, compile=compile)
        tokenizer.setup()
        assert len(compiled) == compile
        found.append(tokenizer.encode(frames, tokenizer.fit(VolumeStatistics(9.0))))
    assert len(compiled) == 1
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("mode", ["max", "zscore"])
def test_intensities_are_the_bits_of_numpy(mode, rng):
    frames = rng.uniform(-5, 200, (4, 96, 96, 96)).astype(np.float32)
    mean, std = frames.mean(0), frames.std(0)
    std[0] = 0
    intensity = VaeTokenizer(intensity=mode).fit(VolumeStatistics(191.3, mean, std))
    if mode == "max":
        wanted = np.maximum(frames, 0) / np.float32(191.3) * np.float32(2) - np.float32(1)
    else:
        factor = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        wanted = np.clip((frames - mean) * factor, -4, 4) / np.float32(4)
    frames.setflags(write=False)
    np.testing.assert_array_equal(intensity.forward(frames), wanted)
    assert torch.equal(intensity.normalize(torch.tensor(frames)), torch.from_numpy(wanted))


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"clip": 0.0}, {"clip": float("nan")}])
def test_sizes_of_nothing_are_refused(option):
    with pytest.raises(FmritokError, match=f"vae.{next(iter(option))}: expected a number above 0"):
        VaeTokenizer(**option)
