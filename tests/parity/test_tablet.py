"""Tokens and outputs equal those of TABLeT's own code, from figures that it gave.

Weights are those of the figures, renamed. The tolerance is 1e-5.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fmritok.tokenizers.vae.slices import tokens_from_latents
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.published.tablet import recipe_options, renamed_weights
from fmritok.trainer.recipe import build_config, read_recipe

FRAMES = torch.arange(3.0).expand(2, -1)


@pytest.fixture(scope="module")
def folder(data):
    return data / "parity/tablet"


@pytest.fixture(scope="module")
def outputs(folder):
    return dict(np.load(folder / "outputs.npz"))


@pytest.fixture(scope="module")
def settings(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def weights(folder):
    return renamed_weights(load_file(folder / "model.safetensors"))


@pytest.fixture(scope="module")
def tokens(outputs):
    return torch.from_numpy(outputs["tokens"].astype(np.float32)).reshape(2, 3, 27, 3072)


def encoder_of(settings, weights):
    config = build_config(recipe_options(settings))
    encoder = TokenTransformer(config.model, TokenLayout(27, 3072, window=3)).eval()
    own = {name.removeprefix("encoder."): value for name, value in weights.items()}
    encoder.load_state_dict({name: own[name] for name in own if not name.startswith("fc.")})
    return encoder


@torch.no_grad()
def encode(encoder, tokens, valid=None):
    return encoder(encoder.embed(tokens), None, FRAMES, valid)


def logit(weights, cls):
    return (cls @ weights["fc.weight"].T + weights["fc.bias"])[:, 0]


def assert_equal(found, theirs):
    torch.testing.assert_close(found, torch.from_numpy(theirs), rtol=0, atol=1e-5)


def test_latents_are_regrouped_into_the_same_tokens(folder, tokens):
    latents = torch.from_numpy(np.load(folder / "inputs.npz")["latents"].astype(np.float32))
    for window, theirs in zip(latents, tokens, strict=True):
        assert torch.equal(tokens_from_latents(window.transpose(0, 1)), theirs)


def test_all_tokens_and_the_logit_are_the_same(settings, weights, tokens, outputs):
    encoded = encode(encoder_of(settings, weights), tokens)
    whole = torch.cat([encoded.cls[:, None], encoded.tokens.flatten(1, 2)], dim=1)
    assert_equal(whole, outputs["encoded"])
    assert_equal(encoded.cls, outputs["cls"])
    assert_equal(logit(weights, encoded.cls), outputs["logit"])


def test_the_order_of_frames_does_not_matter_without_positions(settings, weights, tokens, outputs):
    assert_equal(encode(encoder_of(settings, weights), tokens.flip(1)).cls, outputs["reversed_cls"])


def test_missing_frames_are_hidden_in_the_same_way(folder, settings, weights, tokens, outputs):
    valid = torch.from_numpy(np.load(folder / "inputs.npz")["frame_mask"])
    cls = encode(encoder_of(settings, weights), tokens, valid).cls
    assert_equal(cls, outputs["masked_cls"])
    assert_equal(logit(weights, cls), outputs["masked_logit"])


def test_rotation_by_the_number_of_the_token_is_the_same(settings, weights, tokens, outputs):
    """By a slip in its code, the setting ``qk_norm`` switches the rotation on."""
    encoder = encoder_of({**settings, "qk_norm": True}, weights)
    assert encoder.config.position == "index"
    cls = encode(encoder, tokens).cls
    assert_equal(cls, outputs["rotary_cls"])
    assert_equal(logit(weights, cls), outputs["rotary_logit"])
    assert np.abs(outputs["rotary_cls"] - outputs["cls"]).max() > 0.01


def test_the_recipe_builds_the_model_of_its_settings(settings):
    """All but the sizes, which are small here."""
    model = build_config(read_recipe("tablet-published")).model
    published = recipe_options({
        **settings, "d_model": 896, "num_layers": 12, "d_ff": 4864, "num_tokens": 27 * 256,
    })["model"]  # fmt: skip
    assert {name: asdict(model)[name] for name in published} == published | {"norm_eps": None}


def test_the_parameters_of_both_recipes():
    """What the comment of the recipe tablet-published says, in millions."""
    found = {}
    for name in ("tablet", "tablet-published"):
        config = build_config(read_recipe(name))
        with torch.device("meta"):
            encoder = TokenTransformer(config.model, TokenLayout(27, 3072, window=256))
        found[name] = {
            part: sum(p.numel() for n, p in encoder.named_parameters() if part in n)
            for part in ("", "static", "spatial", "final_norm", "offsets")
        }
    ours, published = found["tablet"], found["tablet-published"]
    assert round(published[""] / 1e6, 2) == 129.51
    assert round((published[""] + 897) / 1e6, 2) == 129.52  # with the classifier of one output
    assert round(ours[""] / 1e6, 2) == 132.30
    assert ours[""] - published[""] == sum(
        ours[part] for part in ("static", "spatial", "final_norm", "offsets")
    )
    assert not any(published[part] for part in ("static", "spatial", "final_norm", "offsets"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_type": "swiglu"}, "mlp_type: expected 'vanilla'"),
        ({"feature_norm": False}, "feature_norm: expected True"),
    ],
)
def test_settings_without_a_counterpart_are_refused(settings, change, message):
    with pytest.raises(CheckpointError, match=message):
        recipe_options({**settings, **change})


def test_missing_and_unknown_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if name != "input_norm.bias"}
    with pytest.raises(CheckpointError, match=r"input_norm\.bias: .*got none"):
        renamed_weights(lacking)
    with pytest.raises(CheckpointError, match="TR_embedding"):
        renamed_weights({**weights, "TR_embedding": torch.zeros(1)})
