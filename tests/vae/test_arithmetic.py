"""Each arithmetic is what its name says, on its own; the error of each is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from autoencoders import save_random_autoencoder

from fmritok.errors import FmritokError
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.tokenizers.fidelity import spread_frames, time_course_error
from fmritok.tokenizers.vae.arithmetic import (
    equal_batches,
    fp32_products,
    rounded,
)
from fmritok.tokenizers.vae.intensity import VolumeStatistics
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

CPU = torch.device("cpu")
#: Of docs/precision.md: by how much (median relative error of time courses, ``max`` intensity)
#: tokens of one arithmetic may differ between devices.
SAME_WITHIN = {"fp32": 0.001, "delta": 0.003}


def settings() -> tuple[object, ...]:
    backends = torch.backends
    found = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    if hasattr(backends.cudnn, "conv"):
        switches = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul
        found += tuple(switch.fp32_precision for switch in switches)
    return found


@pytest.fixture
def products():
    """Put torch's own choice back, whatever a test asks of it."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_ieee_products_are_on_around_the_encoder_only(products, chosen):
    torch.set_float32_matmul_precision(chosen)
    before = settings()
    with fp32_products("fp32", CPU):
        assert torch.backends.cudnn.allow_tf32 is False
        assert torch.get_float32_matmul_precision() == "highest"
    assert settings() == before
    with pytest.raises(RuntimeError, match="stop"), fp32_products("fp32", CPU):
        raise RuntimeError("stop")
    assert settings() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9")
def test_a_choice_for_convolutions_on_a_cpu_is_put_back():
    """Torch's older switches do not know of it."""
    switch = torch.backends.mkldnn.conv
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "bf16"
        with fp32_products("fp32", CPU):
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before


def test_cudnn_tries_its_kernels_within_only():
    assert torch.backends.cudnn.benchmark is False
    with equal_batches():
        assert torch.backends.cudnn.benchmark is True
        with equal_batches(tries=False):
            assert torch.backends.cudnn.benchmark is False
    with pytest.raises(RuntimeError, match="stop"), equal_batches():
        raise RuntimeError("stop")
    assert torch.backends.cudnn.benchmark is False


def test_the_encoder_runs_with_ieee_products(products, tmp_path, rng):
    """Whatever the program around it chose."""
    torch.set_float32_matmul_precision("medium")
    tokenizer = VaeTokenizer(str(save_random_autoencoder(tmp_path)))
    tokenizer.setup()
    seen = []
    inner = tokenizer._autoencoder._encode_batch
    tokenizer._autoencoder._encode_batch = lambda *a: seen.append(settings()[:2]) or inner(*a)
    frames = np.zeros((1, 96, 96, 96), np.float32)
    frames[:, 40:44, 40:44, 40:44] = rng.uniform(1, 9, (4, 4, 4))
    tokenizer.encode(frames, tokenizer.fit(VolumeStatistics(9.0)))
    assert set(seen) == {(False, "highest")}
    assert torch.get_float32_matmul_precision() == "medium"


def test_tf32_is_emulated_where_there_is_none(rng):
    """Numbers keep ten bits, products are exact and sums are fp32."""
    x, w = torch.randn(50, 64), torch.randn(30, 64)
    with rounded("tf32", CPU):
        found = torch.nn.functional.linear(x, w)

    def ten_bits(values: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(values.double())
        nearest = torch.floor(mantissa.abs() * 2**11 + 0.5) / 2**11
        return torch.ldexp(nearest * mantissa.sign(), exponent)

    wanted = ten_bits(x) @ ten_bits(w).T
    assert (found - wanted).abs().max() < 1e-4
    assert (x.double() @ w.double().T - wanted).abs().max() > 1e-3
    with rounded("fp32", CPU):
        torch.testing.assert_close(torch.nn.functional.linear(x, w), x @ w.T)


@pytest.fixture(scope="module")
def run(data) -> RunVolumes:
    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    return RunVolumes.read(path, voxel_statistics=True)


@pytest.mark.parametrize("arithmetic", ["tf32", "bf16", "delta"])
def test_the_measured_error_is_that_of_the_tokens(run, arithmetic):
    """On a few slices, as on other ones."""
    tokenizer = VaeTokenizer(arithmetic=arithmetic)
    tokenizer.setup()
    intensity = tokenizer.fit(run.statistics)
    frames = run.frames_at(spread_frames(run.n_frames, 4))
    found = tokenizer.measure_error(frames, intensity)
    assert (found["arithmetic"], found["against"], found["frames"]) == (arithmetic, "fp32", 4)
    if arithmetic == "bf16":
        exact = VaeTokenizer()
        exact.setup()
        others = (
            encoder.latents(frames, intensity, slice(1, None, 3)).swapaxes(0, 1)
            for encoder in (tokenizer, exact)
        )
        assert found["median"] == pytest.approx(time_course_error(*others).median, rel=0.5)
    low, high = {"tf32": (0.01, 0.2), "bf16": (0.2, 2), "delta": (1e-4, 0.003)}[arithmetic]
    assert low < found["median"] < high
    assert found["percentile_95"] > found["median"]


@pytest.mark.parametrize("arithmetic", ["fp32", "delta"])
def test_another_order_of_sums_stays_within_the_stated_tolerance(run, arithmetic, tmp_path):
    """Devices differ in the order of sums. Here another memory layout and batch stand for that."""
    frames = run.frames_at(spread_frames(run.n_frames, 6))
    found = []
    for batch_size in (16, 3):
        tokenizer = VaeTokenizer(arithmetic=arithmetic, batch_size=batch_size)
        tokenizer.setup()
        if batch_size == 3:
            tokenizer._autoencoder.model.to(memory_format=torch.channels_last)
        intensity = tokenizer.fit(run.statistics)
        found.append(tokenizer.latents(frames, intensity, slice(20, None, 40)).swapaxes(0, 1))
    assert time_course_error(*found).median < SAME_WITHIN[arithmetic]


def test_an_unknown_arithmetic_is_refused_and_the_older_name_is_understood():
    with pytest.raises(FmritokError, match="one of fp32, tf32, bf16, fp16, delta, got int4"):
        VaeTokenizer(arithmetic="int4")
    assert VaeTokenizer(dtype="bf16").arithmetic == "bf16"
    assert VaeTokenizer(dtype="bf16").provenance()["dtype"] == "bf16"
