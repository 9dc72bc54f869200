"""Outputs, loss and masks equal those of cortex_mae 0.1.1, with its weights under our names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.model.inputs import frame_norm
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.objectives.masks import Visible
from fmritok.trainer.options import checked_config
from fmritok.trainer.published.cortexmae import recipe_options, renamed_weights

N_CELLS = 490


@pytest.fixture(scope="module")
def golden(data):
    return data / "parity"


@pytest.fixture(scope="module")
def mask(golden):
    """Its published mask of cortical pixels."""
    bits = np.load(golden / "flat/published.npz")["mask"]
    return np.unpackbits(bits)[: 224 * 560].reshape(224, 560).astype(bool)


@pytest.fixture(scope="module")
def clip(golden, mask):
    images = np.zeros((16, 224, 560), np.float32)
    images[:, mask] = np.load(golden / "cortexmae/inputs.npz")["clip"]
    return images


@pytest.fixture(scope="module")
def outputs(golden):
    return np.load(golden / "cortexmae/outputs.npz")


@pytest.fixture(scope="module")
def weights(golden):
    return load_file(golden / "cortexmae/model.safetensors")


@pytest.fixture(scope="module")
def settings(golden):
    return json.loads((golden / "cortexmae/config.json").read_text())


def cut(images):
    """Cut images into cells, row by row: (..., 224, 560) to (..., 490, 256)."""
    rows = images.reshape(*images.shape[:-2], 14, 16, 35, 16)
    return rows.swapaxes(-3, -2).reshape(*images.shape[:-2], N_CELLS, 256)


def with_cortex(mask):
    return np.flatnonzero(cut(mask).any(axis=1))


def built(weights, settings, cells, mask, **objective):
    """Its model in our form. The clip is normalised already, so frames are taken as they are."""
    config = checked_config(recipe_options(settings))
    config = replace(
        config,
        model=replace(config.model, frame_norm=False),
        objective=replace(config.objective, **objective),
    )
    layout = TokenLayout(
        len(cells), 256, 4, pixel_mask=cut(mask)[cells], window=16, rectangle=N_CELLS
    )
    model = build_objective(config, layout).eval()
    model.load_state_dict(renamed_weights(weights, cells))
    return model


def batch(clip, cells):
    tokens = torch.from_numpy(cut(clip)[:, cells])[None]
    one, row = torch.ones(1, len(cells), 256), torch.zeros(1, dtype=torch.int64)
    times = torch.arange(16.0)[None]
    return Batch(tokens, 0 * one, one, None, times, None, row, row, 0, 1, 16)


def numbered(ids, cells):
    """Convert its numbers of tokens (of all cells) to ours (of the given cells)."""
    patch, cell = np.divmod(ids.ravel(), N_CELLS)
    return torch.from_numpy(patch * len(cells) + np.searchsorted(cells, cell)).long()


@torch.no_grad()
def encoded(model, clip, cells):
    inputs = model.encoder.inputs(batch(clip, cells))
    return model.encoder(model.encoder.embed(inputs.patches), inputs.static, inputs.times)


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_the_encoder_embeds_cells_with_cortex_alike(weights, settings, mask, clip, outputs):
    cells = with_cortex(mask)
    assert len(cells) == 364
    found = encoded(built(weights, settings, cells, mask), clip, cells)
    assert_equal(found.cls, outputs["embed_cls"])
    order = numbered(outputs["embed_ids"], cells)
    assert_equal(found.tokens.flatten(1, 2)[:, order], outputs["embed_tokens"])


def test_the_encoder_embeds_the_whole_rectangle_alike(weights, settings, mask, clip, outputs):
    cells = np.arange(N_CELLS)
    found = encoded(built(weights, settings, cells, mask), clip, cells)
    assert_equal(found.cls, outputs["whole_cls"])
    assert_equal(found.tokens.flatten(1, 2)[:, ::8], outputs["whole_tokens_every"])


def test_predictions_and_loss_are_the_same(weights, settings, golden, mask, clip, outputs):
    """Every second frame of all hidden cells; the decoder with a CLS of its own."""
    cells = with_cortex(mask)
    model = built(weights, settings, cells, mask)
    bits = np.load(golden / "cortexmae/inputs.npz")["visible_cells"]
    seen = np.flatnonzero(np.unpackbits(bits)[:N_CELLS])
    own = torch.from_numpy(np.searchsorted(cells, seen))
    shown = Visible(torch.arange(4).repeat_interleave(len(own))[None], own.repeat(4)[None], None)
    model._visible = lambda *call: shown
    heads, encodings = [], []
    model.decoder.head.register_forward_hook(lambda *call: heads.append(call[2]))
    model.encoder.final_norm.register_forward_hook(lambda *call: encodings.append(call[2]))
    with torch.no_grad():
        loss = model(batch(clip, cells)).loss
    assert_equal(encodings[0][:, 0], outputs["mae_cls"])
    assert (
        numbered(outputs["visible_ids"], cells).tolist()
        == (shown.patches * len(cells) + shown.cells)[0].tolist()
    )
    assert_equal(encodings[0][:, 1:], outputs["mae_tokens"])
    predictions = torch.cat(heads)
    assert predictions.shape == (1264, 512)
    assert_equal(predictions[::8], outputs["predictions_every"][0])
    assert_equal(predictions.mean(1), outputs["predictions_mean"][0])
    assert_equal(predictions.square().mean(1).sqrt(), outputs["predictions_rms"][0])
    assert_equal(predictions.mean(0), outputs["predictions_pixel_mean"][0])
    assert float(loss.n_values) == int(outputs["n_values"])
    assert float(loss.value) == pytest.approx(float(outputs["mae_loss"]), rel=1e-5)


def test_targets_are_the_same(weights, settings, golden, mask, clip, outputs):
    """The 1st and 3rd of the 4 frames of a patch."""
    cells = with_cortex(mask)
    patches = built(weights, settings, cells, mask).encoder.inputs(batch(clip, cells)).patches
    chosen = numbered(outputs["predicted_ids"], cells)[::8]
    targets = patches[0].flatten(0, 1)[chosen].unflatten(1, (4, 256))[:, ::2].flatten(1)
    assert_equal(targets, outputs["targets_every"][0].astype(np.float32))
    assert outputs["predicted_frames"].tolist() == list(range(0, 16, 2))


@pytest.mark.parametrize("masking", ["tube", "random"])
def test_as_many_tokens_are_visible(weights, settings, golden, mask, masking):
    """Counted of the whole grid, and cut to whole as there: 48 of 364 cells at 0.9."""
    cells = with_cortex(mask)
    masks = np.load(golden / "cortexmae/masks.npz")
    draws = torch.arange(3)
    for ratio, theirs in zip(masks["ratios"], masks[f"{masking}_visible"], strict=True):
        model = built(weights, settings, cells, mask, mask_ratio=float(ratio), masking=masking)
        shown = model._visible(draws, None, 4, len(cells))
        patches = 4 if masking == "tube" else 1
        assert set(theirs.tolist()) == {shown.cells.shape[1] // patches}
    assert masks["tube_visible"][3, 0] == 48


def test_frames_are_normalised_and_clipped_alike(golden):
    series = np.load(golden / "cortexmae/transforms_inputs.npz")["frames"]
    theirs = np.load(golden / "cortexmae/transforms_outputs.npz")
    frames, known = torch.from_numpy(series)[None, :, None], torch.ones(1, 400)
    middle = frames[:, 2:18]
    np.testing.assert_array_equal(middle[0, :, 0].numpy(), theirs["frame_cropped"])
    whole = frame_norm(frames, known, None)[0, :, 0]
    assert_equal(whole, theirs["inference_normalised"])
    assert_equal(frame_norm(middle, known, None)[0, :, 0], theirs["frame_normalised"])
    assert_equal(frame_norm(middle, known)[0, :, 0], theirs["frame_clipped"])
    assert (theirs["frame_normalised"] > 3).any(), "otherwise nothing is clipped"


def test_the_clip_of_a_stored_series_is_the_same(golden):
    outputs = np.load(golden / "cortexmae/transforms_outputs.npz")
    shard = outputs["shard_float16"].astype(np.float32)
    first = (len(shard) - 16) // 2
    frames = torch.from_numpy(shard[first : first + 16])[None, :, None]
    found = frame_norm(frames, torch.ones(1, shard.shape[1]))
    assert_equal(found[0, :, 0], outputs["shard_clip"])


def test_a_weight_that_is_missing_or_not_known_is_named(weights, mask):
    cells = with_cortex(mask)
    less = {k: v for k, v in weights.items() if k != "encoder.blocks.1.attn.v.bias"}
    with pytest.raises(CheckpointError, match=r"encoder\.blocks\.1\.attn\.v\.bias: expected"):
        renamed_weights(less, cells)
    with pytest.raises(CheckpointError, match=r"encoder\.more: expected a known name"):
        renamed_weights({**weights, "encoder.more": weights["encoder.cls_token"]}, cells)


def test_an_encoder_alone_has_the_same_names(weights, mask):
    cells = with_cortex(mask)
    alone = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    whole, part = renamed_weights(weights, cells), renamed_weights(alone, cells)
    assert set(part) == {name for name in whole if name.startswith("encoder.")}
    assert all(torch.equal(whole[name], value) for name, value in part.items())


@pytest.mark.parametrize(
    ("name", "value"), [("pos_embed", "sincos"), ("class_token", False), ("mask_drop_scale", True)]
)
def test_a_model_that_fmritok_does_not_have_is_refused(settings, name, value):
    other = {**settings, "model_kwargs": {**settings["model_kwargs"], name: value}}
    with pytest.raises(CheckpointError, match=f"{name}: expected"):
        recipe_options(other)


def test_the_sizes_of_named_models_are_known(settings):
    kwargs = {k: settings["model_kwargs"][k] for k in ("pos_embed", "no_embed_class")}
    options = recipe_options({**settings, "model": "mae_vit_base", "model_kwargs": kwargs})
    assert (options["model"]["width"], options["objective"]["decoder_width"]) == (768, 512)
    assert options["objective"]["stride"] == 1
