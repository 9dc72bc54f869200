"""Differential inference equals the plain encoder, and keeps time courses with fp16 products."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from autoencoders import save_random_autoencoder
from torch.overrides import TorchFunctionMode

from fmritok.errors import FmritokError
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.tokenizers.fidelity import time_course_error
from fmritok.tokenizers.vae import delta_products, delta_rules, delta_walk, positions
from fmritok.tokenizers.vae.autoencoder import latent_of
from fmritok.tokenizers.vae.delta import DeltaEncoder
from fmritok.tokenizers.vae.delta_compiled import CompiledWalk
from fmritok.tokenizers.vae.delta_products import HalfProducts
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


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(int(np.random.default_rng().integers(2**31)))  # fresh in every run
    return torch.randn(3, 3, 96, 96) * 0.3, torch.randn(4, 3, 96, 96) * 0.01


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


def test_products_stay_within_fp16_for_large_and_small_numbers():
    """The factor of a frame comes from this frame and the weights, not from other frames."""
    conv, product = torch.nn.functional.conv2d, HalfProducts()
    weight = torch.randn(8, 16, 3, 3)
    x = torch.randn(4, 16, 9, 9) * torch.tensor([1e-12, 1, 1e6, 0]).view(4, 1, 1, 1)
    for scale in (1e-9, 1, 1e9):
        weights = weight * scale
        found = product(conv, x, weights, (1, 1))
        exact = conv(x.double(), weights.double(), None, 1, 1)
        for frame in range(3):
            assert error(found[frame], exact[frame]) < 1e-3
        assert not found[3].any()
        alone = product(conv, x[:1], weights, (1, 1))
        bound = lambda: 3 * x.abs().amax((1, 2, 3), keepdim=True)  # noqa: E731
        assert error(product(conv, x, weights, (1, 1), bound)[:3], found[:3]) < 1e-3
        assert error(found[:1], alone) < 1e-3  # of another batch size, hence another order of sums
    assert error(conv(x.half(), weight.half(), None, 1, 1)[0].double(), exact[0] / 1e9) > 0.5


def test_a_product_as_large_as_its_weights_allow_stays_within_fp16():
    """All numbers and weights have one sign and size, so nothing cancels in the sums."""
    for size in (1e-6, 1.0, 1e6):
        x, weight = torch.full((2, 16, 4, 4), size), torch.full((3, 16, 1, 1), 0.5)
        found = HalfProducts()(torch.nn.functional.conv2d, x, weight, ())
        torch.testing.assert_close(found, torch.full((2, 3, 4, 4), 8 * size), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", delta_rules.SLOPES)
def test_no_step_is_steeper_than_its_stated_slope(name):
    b = torch.linspace(-12, 12, 4801, dtype=torch.float64)[:, None]
    d = torch.cat([torch.logspace(-6, 2, 81), -torch.logspace(-6, 2, 81)]).double()
    steepest = float((delta_rules.RULES[name](b, d).abs() / d.abs()).max())
    assert steepest <= delta_rules.SLOPES[name] < 1.01 * steepest


@torch.inference_mode()
@pytest.mark.parametrize("step", [torch.relu, torch.nn.functional.silu, torch.tanh])
def test_a_product_after_a_step_of_known_slope_does_not_measure_what_it_gets(step):
    """On a GPU that would compute the step twice."""
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    measured = []

    def measure(x, channels=1):
        measured.append(x)
        return x.abs().amax((1, 2, 3), keepdim=True)

    encoder = DeltaEncoder(lambda x: torch.nn.functional.conv2d(step(x), weight))
    notes = encoder.base(x[:1]).notes_of(0)
    with (
        mock.patch.object(delta_products, "magnitude", measure),
        mock.patch.object(delta_walk, "magnitude", measure),
    ):
        encoder.deviations(notes, x)
    [read] = measured
    assert torch.equal(read, x) == (step is not torch.tanh)


def linear_attention(x: torch.Tensor) -> torch.Tensor:
    """As in AutoencoderDC, where a ReLU may leave nothing of a query or of all keys."""
    q, k, v = x.flatten(2).chunk(3, dim=1)
    q, k = torch.relu(q), torch.relu(k)
    v = torch.nn.functional.pad(v, (0, 0, 0, 1), value=1)
    summed = v @ k.transpose(-1, -2) @ q
    return summed[:, :-1] / (summed[:, -1:] + 1e-15)


@torch.inference_mode()
def test_denominators_that_vanish_leave_no_noise():
    """Many random cases; in most of them some frame or the base has a denominator of 0."""
    gone = 0
    for seed in range(150):
        random = torch.Generator().manual_seed(seed)
        b, d = (torch.randn(n, 9, 4, 4, generator=random) for n in (1, 8))
        exact = DeltaEncoder(linear_attention, half=False, dtype=torch.float64)
        single = DeltaEncoder(linear_attention, half=False)
        wanted = exact.deviations(exact.base(b).notes_of(0), d)
        found = single.deviations(single.base(b).notes_of(0), d)
        assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max(), seed
        assert (found - wanted).abs().median() < 1e-6, seed
        gone += bool((linear_attention(b + d) == 0).all(1).any())
    assert gone > 50


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


@torch.inference_mode()
def test_the_norm_of_a_vanishing_frame_is_no_noise():
    """The variance is what is left of the base's; its rounding error may be negative."""

    def scale(x):
        return torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)

    b = torch.randn(1, 8, 5, 5) * 1000
    d = -b + torch.randn(4, 8, 5, 5) * torch.tensor([0, 1e-3, 1, 1000]).view(4, 1, 1, 1)
    single = DeltaEncoder(scale, half=False)
    found = single.deviations(single.base(b).notes_of(0), d) + scale(b)
    torch.testing.assert_close(found, scale(b + d), rtol=1e-3, atol=0)


def test_every_rule_is_exact_for_small_and_large_deviations():
    """In float32, against the plain difference in float64; the plain difference fails this."""
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(4000, generator=generator)
    sizes = 10 ** torch.empty(4000).uniform_(-6, 1, generator=generator)
    functions = {
        "clamp": lambda x: x.clamp(-0.5, 0.5), "exp": torch.exp, "pow": lambda x: x**2,
        "reciprocal": torch.reciprocal, "relu": torch.relu, "rsqrt": torch.rsqrt,
        "sigmoid": torch.sigmoid, "silu": torch.nn.functional.silu, "softmax": None,
        "sqrt": torch.sqrt, "square": torch.square, "tanh": torch.tanh,
    }  # fmt: skip
    assert set(functions) == set(delta_rules.RULES)
    for name, function in functions.items():
        base, d = b, sizes * b.sign()
        if name in ("rsqrt", "sqrt", "reciprocal"):
            base, d = b.abs() + 0.1, sizes
        rule = delta_rules.RULES[name]
        if name == "softmax":
            base, d = base.reshape(-1, 8), d.reshape(-1, 8)
            function = lambda x: torch.softmax(x, -1)  # noqa: E731
        found = rule(base, d, -0.5, 0.5) if name == "clamp" else rule(base, d)
        exact = function(base.double() + d.double()) - function(base.double())
        scale = exact.abs() if name != "softmax" else exact.abs().amax(-1, keepdim=True)
        wrong = (found - exact).abs() / (scale + 1e-30)
        assert wrong[exact != 0].median() < 2e-7, name
        assert found.isfinite().all(), name
        if name in delta_rules.SLOPES:
            steepest = (found.double() / d.double()).abs().max()
            assert steepest <= delta_rules.SLOPES[name] < 1.01 * steepest, name


def test_a_step_without_a_rule_is_computed_and_named_once(images):
    bases, deviations = images

    def encode(x):
        return torch.nn.functional.mish(torch.nn.functional.mish(2 - x))

    encoder = DeltaEncoder(encode, half=False, dtype=torch.float64)
    base = encoder.base(bases[:1])
    with pytest.warns(UserWarning, match="no rule for mish") as told:
        found = encoder.deviations(base.notes_of(0), deviations)
    wanted = encode(bases[:1].double() + deviations.double()) - encode(bases[:1].double())
    assert len(told) == 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@torch.library.custom_op("fmritok_tests::wobble", mutates_args=())
def wobble(x: torch.Tensor, by: float) -> torch.Tensor:
    """Stand for an operation that no one knows."""
    return torch.sin(by * x) + x.flip(-1)


def masked_attention(x: torch.Tensor) -> torch.Tensor:
    """Attend by hand to what a causal mask leaves, in one head for each channel."""
    attended = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).tril()
    return attended + torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def grouped_attention(x: torch.Tensor) -> torch.Tensor:
    """Attend with one key for all channels."""
    one = x[:, :1]
    return torch.nn.functional.scaled_dot_product_attention(x, one, one, enable_gqa=True)


def test_attention_takes_a_scale_of_nothing(images):
    """Every value has the same weight then."""
    bases, deviations = images
    encode = partial(torch.nn.functional.scaled_dot_product_attention, scale=0.0)
    encoder = DeltaEncoder(lambda x: encode(x, x, x), half=False, dtype=torch.float64)
    found = encoder.deviations(encoder.base(bases[:1]).notes_of(0), deviations)
    wanted = deviations.double().mean(-2, keepdim=True).expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


UNKNOWN = {
    "floor of a quotient": lambda x: x + torch.div(x, 1e4, rounding_mode="floor"),
    "floor of two": lambda x: x + torch.div(x, x + 1, rounding_mode="floor"),
    "grouped attention": grouped_attention,
    "wobble": lambda x: torch.ops.fmritok_tests.wobble(x * 3, 2.0),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
    "scaled_dot_product_attention": masked_attention,
    "amax": lambda x: x * x.amax((2, 3), keepdim=True),
    "where": lambda x: torch.where(torch.arange(96) % 2 == 0, x, x.sqrt() * 2),
}


@pytest.mark.parametrize("name", UNKNOWN)
@torch.inference_mode()
def test_what_has_no_rule_is_computed_in_fp32_on_base_and_deviation(name, images):
    """As exactly as fp32 has it, before and after steps with rules."""
    bases, deviations = images
    encode = lambda x: torch.relu(UNKNOWN[name](x.pow(2) + 1))  # noqa: E731
    encoder = DeltaEncoder(encode)
    base = encoder.base(bases[:1])
    with pytest.warns(UserWarning, match="no rule for .* computed in float32 on base and"):
        found = encoder.deviations(base.notes_of(0), deviations)
    exact = encode((bases[:1] + deviations).double()) - encode(bases[:1].double())
    assert found.dtype == torch.float32
    assert exact.abs().max() > 1e-3
    assert (found - exact).abs().max() < 1e-5 * encode(bases[:1].double()).abs().max()


IN_PLACE = {
    "add_": lambda x: (x * 2).add_(1),
    "setitem": lambda x: x.__setitem__(slice(0, 1), 0),
    "gt": lambda x: x * (x > 0),
    "item": lambda x: x * x.sum().item(),
    "relu in place": lambda x: torch.nn.functional.relu(x * 2, inplace=True),
    "silu in place": torch.nn.SiLU(inplace=True),
    "mish in place": torch.nn.Mish(inplace=True),
}


@pytest.mark.parametrize("name", IN_PLACE)
@torch.inference_mode()
def test_what_cannot_be_carried_is_refused_instead_of_being_wrong(name, images):
    with pytest.raises(FmritokError, match=f"got {name}. Use --arithmetic fp32"):
        DeltaEncoder(IN_PLACE[name]).base(images[0])


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
