"""Differential inference equals the plain encoder, and keeps time courses with fp16 products."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from autoencoders import save_random_autoencoder
from torch.overrides import TorchFunctionMode

from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.tokenizers.fidelity import time_course_error
from fmritok.tokenizers.vae import positions
from fmritok.tokenizers.vae.autoencoder import latent_of
from fmritok.tokenizers.vae.delta import DeltaEncoder
from fmritok.tokenizers.vae.delta_compiled import CompiledWalk
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer
from fmritok.tokenizers.vae.weights import load_autoencoder, resolve_weights

#: What fp16 products may cost, by autoencoder. With random weights, a denominator in the attention
#: of AutoencoderDC may be small beside the rounding of its queries.
HALF_COSTS = {
    "AutoencoderDC": 2e-2, "AutoencoderKL": 3e-3, "AutoencoderTiny": 2e-3, "dcae-tiny": 3e-3,
}  # fmt: skip
KINDS = list(HALF_COSTS)


class WithoutCasts(TorchFunctionMode):
    """diffusers casts to float32 in norms and attention, which spoils a float64 reference."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and torch.float32 in (*args, *(kwargs or {}).values()):
            return args[0]
        return func(*args, **(kwargs or {}))


def autoencoder(kind: str, folder, seed: int | None = None) -> torch.nn.Module:
    """Return an encoder with weights that no two blocks share; norms and biases included."""
    known = kind == "dcae-tiny"
    weights = resolve_weights(kind if known else str(save_random_autoencoder(folder, kind)))
    model = load_autoencoder(weights, decoder=False)
    if seed is not None:
        torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_delta_in_float64_equals_the_plain_encoder(kind, tmp_path, images):
    """Without rounding nothing is lost, for any image as base; every step has its rule."""
    bases, deviations = images
    model = autoencoder(kind, tmp_path)
    exact = copy.deepcopy(model).double()
    encoder = DeltaEncoder(lambda x: latent_of(model, x), half=False, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "delta has no rule")
        base = encoder.base(bases)
        found = encoder.deviations(base.notes_of(1), deviations)
    with WithoutCasts():
        mean = latent_of(exact, bases.double())
        frames = latent_of(exact, bases[1:2].double() + deviations.double())
    size = (frames - mean[1]).abs().max()
    assert size > 1e-4
    assert (base.latents - mean).abs().max() < 1e-9
    assert (found - (frames - mean[1])).abs().max() < 1e-9 * size


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "dcae-tiny"]
    + ["dcae-tiny"],
)
@torch.inference_mode()
def test_the_traced_walk_gives_what_the_walk_gives(kind, tmp_path, images):
    """For other images and deviations than those of the trace, too; a shape is traced once.

    The trace may sum in another order, and fp16 rounds a few numbers the other way then.
    """
    bases, deviations = images[0][..., :32, :32], images[1][..., :32, :32]
    model = autoencoder(kind, tmp_path)
    encoder = DeltaEncoder(lambda x: latent_of(model, x))
    base, walks = encoder.base(bases), []
    walk = lambda *a: walks.append(1) or encoder._deviations(*a)  # noqa: E731
    compiled = CompiledWalk(walk, backend="eager")
    for image, factor in ((0, 1), (1, 3)):
        notes, d = base.notes_of(image), factor * deviations
        assert error(compiled(notes, d), encoder.deviations(notes, d)) < HALF_COSTS[kind] / 10
    assert len(walks) == 2  # one for the weights, one for the trace
    assert compiled(base.notes_of(0), deviations[:3]).shape[0] == 3


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_fp32_steps_lose_less_than_the_plain_encoder_in_fp32(kind, tmp_path, images):
    bases, deviations = images[0], images[1] * 0.1
    model = autoencoder(kind, tmp_path)
    latent = lambda x: latent_of(model, x)  # noqa: E731
    exact = DeltaEncoder(latent, half=False, dtype=torch.float64)
    base = exact.base(bases[:1])
    wanted = exact.deviations(base.notes_of(0), deviations)
    single, half = DeltaEncoder(latent, half=False), DeltaEncoder(latent)
    plain = error(latent(bases[:1] + deviations).double() - base.latents, wanted)
    notes = single.base(bases[:1]).notes_of(0)
    assert error(single.deviations(notes, deviations), wanted) < plain / 10
    assert 1e-5 < error(half.deviations(notes, deviations), wanted) < HALF_COSTS[kind]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_fp16_products_do_not_get_worse_with_smaller_deviations(kind, tmp_path, images):
    """fp16 has no small numbers: below 6e-5 they lose their digits, unless they are scaled."""
    bases, deviations = images
    model = autoencoder(kind, tmp_path)
    single, half = (
        DeltaEncoder(lambda x: latent_of(model, x), half=half) for half in (False, True)
    )
    notes = single.base(bases[:1]).notes_of(0)
    small = deviations[:2] * 1e-4
    costs = error(half.deviations(notes, small), single.deviations(notes, small))
    assert costs < HALF_COSTS[kind]


@torch.inference_mode()
def test_wild_frames_of_many_autoencoders_leave_no_noise(tmp_path):
    """Whole encoders of random weights; deviations as large as the image empty many queries."""
    for seed in range(8):
        model = autoencoder("AutoencoderDC", tmp_path, seed)
        latent = lambda x: latent_of(model, x)  # noqa: B023, E731
        b, d = torch.randn(1, 3, 32, 32) * 0.3, torch.randn(8, 3, 32, 32)
        exact = DeltaEncoder(latent, half=False, dtype=torch.float64)
        single = DeltaEncoder(latent, half=False)
        wanted = exact.deviations(exact.base(b).notes_of(0), d)
        found = single.deviations(single.base(b).notes_of(0), d)
        assert error(found, wanted) < 1e-4, seed


@pytest.fixture(scope="module")
def run(data) -> RunVolumes:
    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    return RunVolumes.read(path, voxel_statistics=True)


def some_latents(run: RunVolumes, mode: str, arithmetic: str, frames: np.ndarray, **more):
    tokenizer = VaeTokenizer(intensity=mode, arithmetic=arithmetic, **more)
    tokenizer.setup()
    intensity = tokenizer.fit(run.statistics)
    return tokenizer.latents(frames, intensity, slice(20, None, 40)).swapaxes(0, 1)


@pytest.mark.parametrize("mode", ["max", "zscore"])
def test_time_courses_of_a_real_run_are_kept(run, mode):
    """Within half a percent of true fp32, where plain fp16 loses up to a tenth."""
    frames = run.frames_at(range(run.n_frames))
    exact = some_latents(run, mode, "fp32", frames)
    delta = time_course_error(some_latents(run, mode, "delta", frames), exact)
    assert 1e-5 < delta.median < 0.003
    assert delta.percentile_95 < 0.005
    if mode == "max":
        plain = time_course_error(some_latents(run, mode, "fp16", frames), exact)
        assert plain.median > 10 * delta.median


@pytest.mark.parametrize("mode", ["max", "zscore"])
def test_a_base_pass_in_float32_changes_little_but_the_mean(run, mode, monkeypatch):
    """As on a GPU: by less than the plain encoder in float32 does."""
    frames = run.frames_at(range(run.n_frames))
    plain = some_latents(run, mode, "fp32", frames)
    exact = some_latents(run, mode, "delta", frames)
    monkeypatch.setattr(DeltaEncoder, "_base_dtype", lambda *_: torch.float32)
    found = some_latents(run, mode, "delta", frames)
    assert 0 < time_course_error(found, exact).median < 0.001
    std = exact.std(0)
    offset, usual = (np.median((np.abs(x.mean(0) - exact.mean(0)) / std)[std > 0])
                     for x in (found, plain))  # fmt: skip
    assert 0 < offset < min(usual, 0.001)


def test_a_wild_frame_costs_only_itself(run):
    """A frame that moved by five voxels is encoded too, and the others do not notice it."""
    frames = run.frames_at(range(6))
    wild = frames.copy()
    wild[3] = np.roll(wild[3], 5, axis=1)
    found = some_latents(run, "max", "delta", wild)
    alone = some_latents(run, "max", "delta", frames)
    others = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(found[others], alone[others])
    exact = some_latents(run, "max", "fp32", wild)
    wrong = np.abs(found[3] - exact[3])
    assert wrong.max() < 0.01 * np.abs(exact[3]).max()


def test_tokens_do_not_depend_on_the_block_or_the_place_in_it(run):
    """The base is the run's mean whatever is encoded together: the same bits."""
    frames = run.frames_at(range(5))
    together = some_latents(run, "max", "delta", frames, batch_size=4)
    alone = some_latents(run, "max", "delta", frames[4:], batch_size=4)
    np.testing.assert_array_equal(together[4:], alone)


@torch.inference_mode()
def test_bases_that_are_encoded_together_belong_to_their_positions(tmp_path, monkeypatch):
    """As on a GPU; one of the positions has nothing drawn, and the last batch of bases is short."""
    torch.manual_seed(0)
    model = autoencoder("AutoencoderTiny", tmp_path)
    encoder = DeltaEncoder(lambda x: latent_of(model, x))
    means = torch.rand(6, 32, 32)
    slices = means + 0.01 * torch.randn(5, 6, 32, 32)
    slices[:, 2] = means[2] = -1
    empty = torch.zeros(4, 4, 4)

    def encoded():
        return positions.encode_positions(
            encoder, slices, means, empty, -1, frames=3, tries_kernels=False
        )

    alone = encoded()
    monkeypatch.setitem(positions._TOGETHER, "cpu", 3)
    torch.testing.assert_close(encoded(), alone, rtol=0, atol=1e-6)
    assert not alone[:, 2].any()
    plain = latent_of(model, slices[:, 4, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(alone[:, 4], plain, rtol=0, atol=1e-3 * float(plain.abs().max()))
