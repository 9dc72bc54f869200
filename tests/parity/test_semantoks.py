"""Outputs, losses, schedules and masks equal those of Brain-Semantoks, from figures of its code.

Weights are those of the figures, renamed. The tolerance is 1e-5.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fmritok.tokenizers.temporal import standardize
from fmritok.trainer.config import OptimConfig
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.model.embeddings import SingleNetworkEmbedding
from fmritok.trainer.model.inputs import fold_inputs
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.coding_rate import coding_rate, rate_loss, token_loss
from fmritok.trainer.objectives.distill import (
    SelfDistillation,
    network_weight,
    teacher_momentum,
)
from fmritok.trainer.objectives.views import slice_mask
from fmritok.trainer.published.semantoks import recipe_options, renamed_weights, tokenizer_weights
from fmritok.trainer.recipe import build_config, read_recipe
from fmritok.trainer.training.optim import learning_rate, weight_decay

NETWORKS = ["Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"]
ATLAS = "atlases/Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_label.txt"
#: A step with network weight 0.5, 0.2 or 0, and one in which nothing is hidden.
STEPS = [(0.5, True), (0.2, True), (0.0, True), (0.5, False)]


@pytest.fixture(scope="module")
def folder(data):
    return data / "parity/semantoks"


@pytest.fixture(scope="module")
def settings(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def outputs(folder):
    return dict(np.load(folder / "outputs.npz"))


@pytest.fixture(scope="module")
def layout(data):
    """457 parcels in the published order: Schaefer's 400, Tian's 50, Buckner's 7."""
    names = [line.strip() for line in (data / ATLAS).read_text().splitlines()[::2]]
    cortex = [NETWORKS.index(n.split("_")[2]) for n in names if n.startswith("7Networks_")]
    network = np.array([*cortex, *[7] * 50, *[8] * 7])
    assert np.bincount(network).tolist() == [61, 77, 46, 47, 26, 52, 91, 50, 7]
    return TokenLayout(457, 1, 20, network=network, window=100)


@pytest.fixture(scope="module")
def model(folder, settings, layout):
    config = build_config(recipe_options(settings))
    encoder = TokenTransformer(config.model, layout)
    model = SelfDistillation(encoder, config.objective, window=180).eval()
    model.load_state_dict(renamed_weights(load_file(folder / "checkpoint.safetensors")))
    return model


@pytest.fixture(scope="module")
def views(folder, model):
    stored = np.load(folder / "inputs.npz")
    times = torch.arange(100.0).expand(6, -1) * 2
    found = []
    for number in (1, 2):
        x = torch.from_numpy(stored[f"view{number}"].astype(np.float32)).mT[..., None]
        bits = np.unpackbits(stored[f"mask{number}"])[: 6 * 9 * 5].reshape(6, 9, 5).astype(bool)
        inputs = fold_inputs(x, None, times, None, model.encoder.grid)
        found.append((inputs, torch.from_numpy(bits).mT))
    return found


def assert_equal(found, theirs):
    torch.testing.assert_close(found, torch.from_numpy(np.asarray(theirs)), rtol=0, atol=1e-5)


@torch.no_grad()
def encode(student, view, hidden=None):
    """Return CLS and tokens, network by network, as theirs are."""
    x = student.encoder.embed(view.patches)
    if hidden is not None:
        x = torch.where(hidden[..., None], student.mask_vector, x)
    encoded = student.encoder(x, None, view.times)
    return torch.cat([encoded.cls[:, None], encoded.tokens.transpose(1, 2).flatten(1, 2)], dim=1)


@torch.no_grad()
def embed(model, views, masked=True):
    students, teachers, hidden = [], [], []
    for view, mask in views:
        mask = mask if masked else torch.zeros_like(mask)
        students.append(model.student(view, mask))
        teachers.append(model.teacher(view, torch.zeros_like(mask)))
        hidden.append(mask)
    return students, teachers, hidden


@pytest.mark.parametrize("parcels", [26, 7, 50])
def test_tokenizers_with_several_heads_are_the_same(folder, parcels):
    weights = load_file(folder / "tokenizer_wide.safetensors")
    own = {n: x for n, x in weights.items() if n.startswith(f"regions{parcels}.")}
    embedding = SingleNetworkEmbedding(parcels, patch=20, width=128)
    embedding.load_state_dict(tokenizer_weights(own, f"regions{parcels}"))
    x = torch.from_numpy(
        np.load(folder / "tokenizer_wide_inputs.npz")[f"regions{parcels}"].astype(np.float32)
    )
    theirs = np.load(folder / "tokenizer_wide_outputs.npz")
    with torch.no_grad():
        long = embedding.long(x)
        assert_equal(long, theirs[f"regions{parcels}_long_convolution"])
        assert_equal(embedding.dense(x), theirs[f"regions{parcels}_branch0"])
        assert_equal(embedding.mix(long.mT).mT, theirs[f"regions{parcels}_branch1"])
        assert_equal(embedding(x), theirs[f"regions{parcels}_token"])


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_tokens_before_and_after_the_encoder_are_the_same(model, views, outputs, who):
    student, (view, hidden) = getattr(model, who), views[0]
    with torch.no_grad():
        tokens = student.encoder.embed(view.patches).transpose(1, 2)
    assert_equal(tokens, outputs[f"{who}_tokenizer"])
    assert_equal(encode(student, view), outputs[f"{who}_tokens"])
    assert_equal(encode(student, view, hidden), outputs[f"{who}_tokens_masked"])


def test_features_of_a_probe_are_the_same(model, views, outputs):
    """Theirs are the mean token, then CLS; ours with ``pool=both``."""
    view, hidden = views[0]
    whole = encode(model.teacher, view)
    assert_equal(whole[:, 0], outputs["feature_cls"])
    assert_equal(torch.cat([whole[:, 1:].mean(1), whole[:, 0]], 1), outputs["feature_cls_avg"])
    others = torch.ones_like(hidden)
    others[:, :, 2] = False
    one = encode(model.teacher, view, others)
    assert_equal(torch.cat([one[:, 1:].mean(1), one[:, 0]], 1), outputs["feature_one_network"])


def test_an_encoder_without_its_training_is_the_same(folder, settings, layout, views, outputs):
    found = renamed_weights(load_file(folder / "encoder.safetensors"))
    encoder = TokenTransformer(build_config(recipe_options(settings)).model, layout).eval()
    prefix = "encoder."
    encoder.load_state_dict(
        {n.removeprefix(prefix): x for n, x in found.items() if n.startswith(prefix)}
    )
    view = views[0][0]
    with torch.no_grad():
        cls = encoder(encoder.embed(view.patches), None, view.times).cls
    assert_equal(cls, outputs["feature_cls"])


def test_embeddings_of_windows_tokens_and_networks_are_the_same(model, views, outputs):
    students, teachers, hidden = embed(model, views)
    for who, embedded in (("student", students), ("teacher", teachers)):
        for number, (view, mask) in enumerate(zip(embedded, hidden, strict=True), start=1):
            assert_equal(view.window, outputs[f"{who}_head_cls{number}"])
            assert_equal(view.cells, outputs[f"{who}_head_network{number}"])
            tokens = view.tokens.transpose(1, 2)[mask.transpose(1, 2)]
            assert_equal(tokens, outputs[f"{who}_head_hidden{number}"])


def test_all_losses_are_the_same(model, views, outputs):
    for (weight, masked), theirs in zip(STEPS, outputs["losses"], strict=True):
        found = model.losses(*embed(model, views, masked), weight=weight)
        tokens = found["tokens"]
        ours = [found["cls"], found["networks"], tokens, 0.5 * tokens, found["total"]]
        assert_equal(torch.stack(ours), theirs)


def test_coding_rate_and_cosine_of_hidden_tokens_are_the_same(folder):
    stored, theirs = np.load(folder / "parts_inputs.npz"), np.load(folder / "parts_outputs.npz")
    rates = [torch.from_numpy(stored[f"rate_{who}"]) for who in ("student", "teacher")]
    assert_equal(rate_loss(*rates, epsilon=0.05), theirs["rate"][0])
    spread_out = [coding_rate((a + b) / 2, epsilon=0.05) for a, b in zip(*rates, strict=True)]
    expansion = torch.stack(spread_out).mean().float()
    assert_equal(expansion, theirs["rate"][3])
    assert_equal(rate_loss(*rates, epsilon=0.05) + expansion, -theirs["rate"][1])
    mask = torch.from_numpy(stored["patch_mask"])
    tokens = []
    for who in ("student", "teacher"):
        x = torch.zeros(*mask.shape, 24)
        x[mask] = torch.from_numpy(stored[f"patch_{who}"])
        tokens.append(x[:, :, None])
    assert_equal(token_loss(*tokens, mask[:, :, None]), theirs["patch"])


def test_standardized_parcels_are_the_same(folder):
    """But for the parcel with NaN: fmritok refuses such runs.

    Parcel 0 lies 460 standard deviations from 0. Their mean of it is rounded in float32, ours not.
    """
    raw = np.load(folder / "parts_inputs.npz")["raw"].copy()
    theirs = np.load(folder / "parts_outputs.npz")["zscored"]
    finite = np.isfinite(raw).all(1)
    assert np.flatnonzero(~finite).tolist() == [9]
    ours = np.ascontiguousarray(raw[finite])
    standardize(ours)
    apart = np.abs(ours - theirs[finite]).max(1)
    assert apart[1:].max() < 1e-5
    exact = raw[0].astype(np.float64)
    exact = (exact - exact.mean()) / exact.std()
    assert np.abs(ours[0] - exact).max() < 1e-6 < np.abs(theirs[0] - exact).max() < 2e-5
    assert not theirs[7].any()


def test_schedules_are_the_same_from_zero(folder):
    """Of the recipe semantoks-published; ``semantoks`` is half a step off."""
    theirs = np.load(folder / "schedules.npz")
    config = build_config(read_recipe("semantoks-published"))
    n_steps, lr = int(theirs["total_steps"]), float(theirs["base_lr"])
    assert config.optim.lr == pytest.approx(lr, rel=1e-12)
    steps = theirs["steps"].tolist()
    objective = config.objective
    for name, found in {
        "lr": [learning_rate(config.optim, step, n_steps) for step in steps],
        "weight_decay": [weight_decay(config.optim, step, n_steps) for step in steps],
        "teacher_momentum": [teacher_momentum(s / n_steps, objective.momentum) for s in steps],
        "network_weight_cosine": [
            network_weight(s / n_steps, objective.network_weight, objective.network_share)
            for s in steps
        ],
    }.items():
        np.testing.assert_allclose(found, theirs[name], rtol=0, atol=1e-9, err_msg=name)
    ours: OptimConfig = build_config(read_recipe("semantoks")).optim
    apart = [learning_rate(ours, step, n_steps) for step in steps] - theirs["lr"]
    assert 1e-5 < np.abs(apart).max() < lr / (0.03 * n_steps)


def test_masks_hide_as_many_networks_and_patches_as_often(folder):
    theirs = np.load(folder / "masks.npz")
    config = build_config(read_recipe("semantoks-published")).objective
    draws = torch.from_numpy(np.random.default_rng(0).integers(0, 2**62, 4000))
    hidden = np.concatenate([
        slice_mask(draws[i : i + 1], None, config, n_patches=5, n_cells=9, view=0).numpy()
        for i in range(len(draws))
    ])  # fmt: skip
    hidden = hidden[hidden.any((1, 2))]
    assert len(hidden) / 4000 == pytest.approx(0.5, abs=0.03)
    in_time = hidden.all(2).any(1)
    assert in_time.mean() == pytest.approx(float(theirs["slice_is_temporal"]) / 4000, abs=0.04)
    networks = np.bincount(hidden[~in_time].all(1).sum(1), minlength=10)
    patches = np.bincount(hidden[in_time].all(2).sum(1), minlength=6)
    for found, name in (
        (networks, "network_hidden_networks"),
        (patches, "temporal_hidden_patches"),
    ):
        wanted = theirs[name] / theirs[name].sum()
        np.testing.assert_allclose(found / found.sum(), wanted, rtol=0, atol=0.06, err_msg=name)
        assert ((found > 0) == (theirs[name] > 0)).all()
    for found, name in (
        (hidden[~in_time].all(1).mean(0), "network_times_hidden"),
        (hidden[in_time].all(2).mean(0), "temporal_times_hidden"),
    ):
        np.testing.assert_allclose(found, theirs[name] / 4000, rtol=0, atol=0.06, err_msg=name)
    starts = np.zeros((6, 6))
    for patch in hidden[in_time].all(2):
        starts[patch.sum(), patch.argmax()] += 1
    table = theirs["temporal_length_by_start"]
    np.testing.assert_allclose(starts / starts.sum(), table / table.sum(), rtol=0, atol=0.05)
    examples = theirs["slice_examples"].transpose(0, 2, 1)
    kinds = {tuple(sorted(mask.sum(1)[mask.any(1)])) for mask in examples}
    assert kinds <= {tuple(sorted(mask.sum(1)[mask.any(1)])) for mask in hidden}


def test_the_recipe_builds_the_model_of_its_settings(settings):
    """All but the sizes, which are small here."""
    large = {"embedding_dim": 768, "depth": 8, "heads": 12, "mlp_dim": 3072,
             "projection_hidden_dim": 1024, "projection_bottleneck_dim": 128}  # fmt: skip
    tokenizer = [{**part, "out_channels": 384} for part in settings["tokenizer_config"]]
    tree = recipe_options({**settings, **large, "tokenizer_config": tokenizer})
    config = asdict(build_config(read_recipe("semantoks-published")))
    tree["model"]["norm_eps"] = None  # the same
    for section, options in tree.items():
        assert {name: config[section][name] for name in options} == options


def test_the_parameters_of_the_recipe(layout):
    """58.72 M of the published 62.75 M, of which two thirds of the tokenizers are never used."""
    config = build_config(read_recipe("semantoks-published"))
    with torch.device("meta"):
        encoder = TokenTransformer(config.model, layout)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 2) == 58.72


def test_settings_and_weights_without_a_counterpart_are_refused(folder, settings):
    with pytest.raises(CheckpointError, match=r"drop_path_rate: expected 0\.0, got 0\.1"):
        recipe_options({**settings, "drop_path_rate": 0.1})
    weights = load_file(folder / "encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"norm\.bias: .*got none"):
        renamed_weights({n: x for n, x in weights.items() if n != "norm.bias"})
    with pytest.raises(CheckpointError, match="head"):
        renamed_weights({**weights, "head.weight": torch.zeros(1)})
    flag = "network_tokenizers.schaefer400.0.branches.1.slconv.kernel_norm_initialized"
    with pytest.raises(CheckpointError, match="kernel_norm"):
        renamed_weights({**weights, flag: torch.zeros_like(weights[flag])})
