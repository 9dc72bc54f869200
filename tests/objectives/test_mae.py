"""Masked autoencoding: what is seen, what is asked, and losses equal to float64 definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.mae import MaskedAutoencoder
from fmritok.trainer.objectives.masks import hidden_tokens, random_visible, tube_visible

MODEL = ModelConfig(width=32, layers=1, heads=2, kv_heads=1, mlp_width=32)
OBJECTIVE = MaskedAutoencoder.Config(decoder_width=16)
MASK = np.arange(6 * 4).reshape(6, 4) % 5 > 0
CENTRES = np.random.default_rng(0).uniform(-70, 70, (6, 3))


def _layout(kind="plain", patch=2):
    if kind == "network":
        return TokenLayout(6, 1, patch, network=np.array([0, 0, 1, 1, 1, 2]))
    if kind == "flatmap":
        return TokenLayout(6, 4, patch, pixel_mask=MASK, coordinates=CENTRES)
    return TokenLayout(6, 4, patch)


def _batch(lengths=(8, 8), dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    B, T = len(lengths), max(lengths)
    valid = torch.arange(T) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(-99, 99, (B, T, 6, dim), generator=generator) * valid[..., None, None]
    std = 0.1 + torch.rand(B, 6, dim, generator=generator)
    return Batch(
        tokens.to(torch.int8), 3 + std, std, std / 50, torch.arange(T).expand(B, T) * 0.72,
        None if valid.all() else valid, torch.arange(B), torch.arange(B) + 11, 0, B, sum(lengths),
    )  # fmt: skip


def _objective(kind="plain", form="both", patch=2, **options):
    torch.manual_seed(0)
    encoder = TokenTransformer(replace(MODEL, input=form), _layout(kind, patch))
    model = MaskedAutoencoder(encoder, replace(OBJECTIVE, **options), window=16)
    torch.nn.init.normal_(model.decoder.head.weight)
    return model


@pytest.mark.parametrize("masking", ["tube", "random"])
@pytest.mark.parametrize("decoder", ["self", "cross"])
@pytest.mark.parametrize("kind", ["plain", "flatmap", "network"])
def test_the_encoder_sees_visible_tokens_only(masking, decoder, kind):
    """What is hidden reaches neither the encoder nor the predictions."""
    model = _objective(kind, "residual", masking=masking, decoder=decoder).eval()
    batch = _batch(dim=1 if kind == "network" else 4)
    predictions, seen = [], []
    model.decoder.register_forward_hook(lambda *call: predictions.append(call[2].detach()))
    model.encoder.blocks[0].register_forward_hook(lambda *call: seen.append(call[1][0].detach()))
    grid, C = model.encoder.grid, model.encoder.grid.n_cells
    shown = model._visible(batch.draws, None, 4, C)
    assert shown.cells.shape[1] <= 4 * C // 2 + 2
    if kind == "flatmap":  # normalising a frame would carry the hidden into the visible
        model.encoder.config = replace(model.encoder.config, frame_norm=False)
    model(batch)
    assert seen[0].shape[1] == 1 + shown.cells.shape[1]
    hidden = torch.ones(2, 4, C, dtype=torch.bool)
    for b in range(2):
        hidden[b, shown.patches[b], shown.cells[b]] = False
    # Change every stored value of the hidden patches.
    frames = torch.randint(-99, 99, batch.tokens.shape, dtype=torch.int8)
    of_frame = hidden.repeat_interleave(2, dim=1)  # [B T C]
    if kind == "network":
        of_frame = of_frame[..., torch.as_tensor(grid.layout.network)]
    changed = torch.where(of_frame[..., None], frames, batch.tokens)
    model(batch._replace(tokens=changed))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(predictions[0], predictions[1])
    model(batch._replace(tokens=torch.where(of_frame[..., None], batch.tokens, frames)))
    assert not torch.equal(predictions[0], predictions[2])


@pytest.mark.parametrize("masking", ["tube", "random"])
@pytest.mark.parametrize("form", ["residual", "both", "absolute"])
@pytest.mark.parametrize("kind", ["plain", "flatmap"])
def test_losses_equal_their_float64_definitions(masking, form, kind):
    """Over every second frame of hidden patches, features that exist and real frames."""
    model = _objective(kind, form, masking=masking, stride=2, chunk=5).eval()
    batch = _batch((8, 5))
    heads = []
    model.decoder.head.register_forward_hook(lambda *call: heads.append(call[2].detach().double()))
    with torch.no_grad():
        output = model(batch, measure=True)
    predicted = torch.cat(heads)
    inputs = model.encoder.inputs(batch)
    shown = model._visible(batch.draws, inputs.valid, 4, 6)
    known = MASK if kind == "flatmap" else np.ones((6, 4), bool)
    errors, trivial, last, row = [], [], [], 0
    for b, n in enumerate((8, 5)):
        keep = slice(None) if shown.keep is None else shown.keep[b]
        seen = {(int(u), int(c)) for u, c in zip(shown.patches[b][keep], shown.cells[b][keep],
                                                 strict=True)}  # fmt: skip
        for u in range(4):
            for c in range(6):
                if (u, c) in seen or 2 * u >= n:
                    continue
                target = inputs.patches[b, u, c, :4].double()[known[c]]
                errors.append(predicted[row][known[c]] - target)
                mean = batch.mean[b, c].double()[known[c]]
                trivial.append(target - (mean if (form, kind) == ("absolute", "plain") else 0))
                before = inputs.patches[b, u - 1, c, 4:].double()[known[c]]
                last.append(target - before if u else trivial[-1])
                row += 1
    assert row == len(predicted)
    mse = float(torch.cat(errors).square().mean())
    assert float(output.loss.value) == pytest.approx(mse, rel=1e-5)
    mse = float(torch.cat(trivial).square().mean())
    assert float(output.measures["loss_mean_token"].value) == pytest.approx(mse, rel=1e-5)
    mse = float(torch.cat(last).square().mean())
    assert float(output.measures["loss_last_frame"].value) == pytest.approx(mse, rel=1e-5)


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_the_decoder_sees_where_cells_are(decoder):
    """Flat maps have places in space: moving a hidden cell changes its prediction."""
    model = _objective("flatmap", "residual", decoder=decoder).eval()
    predictions, batch = [], _batch()
    model.decoder.register_forward_hook(lambda *call: predictions.append(call[2].detach()))
    hidden = set(range(6)) - set(model._visible(batch.draws, None, 4, 6).cells[0].tolist())
    model(batch)
    model.encoder.grid.coordinates[min(hidden), 1] += 30
    model(batch)
    assert (predictions[0][0] - predictions[1][0]).abs().max() > 1e-3


def test_missing_features_do_not_change_the_loss():
    model = _objective("flatmap", "residual")
    model(_batch()).loss.total.backward()
    gradient = model.decoder.head.weight.grad.view(2, 4, 16)
    assert (gradient[:, MASK.any(0)] != 0).any()
    batch = _batch()
    noise = torch.randint(-99, 99, batch.tokens.shape, dtype=torch.int8)
    other = torch.where(torch.from_numpy(MASK), batch.tokens, noise)
    torch.testing.assert_close(
        model(batch).loss.total, model(batch._replace(tokens=other)).loss.total
    )


def test_masks_have_the_requested_size_and_reach_every_token():
    draws = torch.arange(600)
    tube = tube_visible(draws, None, n_patches=4, n_cells=10, n_shown=1)
    assert tube.patches.shape == (600, 4)
    assert (tube.cells == tube.cells[:, :1]).all()
    share = torch.bincount(tube.cells[:, 0], minlength=10) / 600
    assert ((share - 0.1).abs() < 0.05).all()
    valid = torch.arange(4) < torch.where(draws % 2 == 0, 4, 2)[:, None]
    free = random_visible(draws, valid, n_patches=4, n_cells=10, share=0.25)
    assert free.keep.sum(1).tolist() == [10, 5] * 300
    flat = free.patches * 10 + free.cells
    for row, keep in zip(flat, free.keep, strict=True):
        assert len(set(row[keep].tolist())) == keep.sum()
    assert flat[1::2][free.keep[1::2]].max() < 20
    counts = torch.bincount(flat[::2].flatten(), minlength=40) / 300
    assert ((counts - 0.25).abs() < 0.12).all()


def test_a_token_stays_hidden_however_many_are_shown():
    draws = torch.arange(300)
    for lengths, n_cells in (((2, 1), 3), ((4, 3), 2)):
        valid = torch.arange(lengths[0]) < torch.where(draws % 2 == 0, *lengths)[:, None]
        sizes = {"n_patches": lengths[0], "n_cells": n_cells}
        shown = random_visible(draws, valid, share=0.99, **sizes)
        index, keep = hidden_tokens(shown, valid, **sizes)
        assert keep is None
        assert index.shape == (300, 1)


def test_queries_are_the_hidden_tokens():
    draws, valid = torch.tensor([3, 4]), torch.tensor([[True] * 4, [True, True, False, False]])
    shown = random_visible(draws, valid, n_patches=4, n_cells=3, share=0.4)
    index, keep = hidden_tokens(shown, valid, n_patches=4, n_cells=3)
    for b in range(2):
        seen = (shown.patches * 3 + shown.cells)[b][shown.keep[b]].tolist()
        wanted = [u * 3 + c for u in range(4) for c in range(3) if valid[b, u]]
        assert index[b][keep[b]].tolist() == [i for i in wanted if i not in seen]


def test_cells_without_cortex_may_count_as_hidden():
    """Of a grid of 9 cells, 6 with cortex: a third of 9 are visible, or a third of 6."""
    layout = replace(_layout("flatmap"), rectangle=9)
    for of, n_shown in (("grid", 3), ("cells", 2)):
        options = {"mask_ratio": 0.66, "mask_ratio_of": of}
        for masking, per_window in (
            ("tube", 4 * n_shown),
            ("random", {"grid": 12, "cells": 8}[of]),
        ):
            config = replace(OBJECTIVE, masking=masking, **options)
            model = MaskedAutoencoder(TokenTransformer(MODEL, layout), config, window=8)
            assert model._visible(torch.arange(2), None, 4, 6).cells.shape == (2, per_window)
    with pytest.raises(ConfigError, match=r"objective\.mask_ratio_of: expected cells"):
        _objective("plain", mask_ratio_of="grid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 3}, r"objective\.stride: expected a divisor of the 2 frames of a patch, got 3"),
        ({"decoder_position": "hidden"}, r"objective\.decoder_position: .*unless model\.position"),
    ],
)
def test_options_that_do_not_fit_the_tokens_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        _objective("flatmap", **options)


def _learned(**options):
    torch.manual_seed(0)
    layout = replace(_layout("flatmap"), window=8)
    encoder = TokenTransformer(replace(MODEL, position="learned", input="absolute"), layout)
    model = MaskedAutoencoder(encoder, replace(OBJECTIVE, **options), window=8)
    torch.nn.init.normal_(model.decoder.head.weight)
    return model


@pytest.mark.parametrize("decoder_cls", ["encoder", "own"])
def test_the_decoder_sees_the_cls_of_the_encoder_or_its_own(decoder_cls):
    """With its own, no prediction depends on the encoder's CLS after the last layer."""
    model = _learned(decoder_cls=decoder_cls)
    states = []
    model.encoder.final_norm.register_forward_hook(
        lambda *call: (call[2].retain_grad(), states.append(call[2]))[1]
    )
    model(_batch()).loss.total.backward()
    gradient = states[0].grad
    assert (gradient[:, 1:] != 0).any()
    assert bool((gradient[:, 0] == 0).all()) == (decoder_cls == "own")
    assert (model.decoder.cls is not None) == (decoder_cls == "own")


@pytest.mark.parametrize("decoder_position", ["all", "hidden"])
def test_visible_tokens_have_a_position_in_the_decoder_by_option(decoder_position):
    """The position of a visible cell changes predictions, or does not."""
    model = _learned(decoder_position=decoder_position, masking="tube").eval()
    batch = _batch()
    seen = model._visible(batch.draws, None, 4, 6).cells
    both = set(seen[0].tolist()) & set(seen[1].tolist())
    assert both, "otherwise nothing is tested"
    losses = [model(batch).loss.total]
    with torch.no_grad():
        model.decoder.spatial[sorted(both)] += 1
    losses.append(model(batch).loss.total)
    assert torch.equal(*losses) == (decoder_position == "hidden")


def test_windows_longer_than_the_learned_positions_are_refused():
    with pytest.raises(TrainingError, match="of 5 patches: expected at most 4"):
        _learned()(_batch((10, 10)))
    assert _learned()(_batch((6, 4))).loss.n_values > 0


def test_published_start_values():
    torch.manual_seed(0)
    model = ModelConfig(width=64, layers=1, heads=2, mlp_width=64, position="learned", bias=True,
                        norm="layernorm", norm_eps=1e-6, init="xavier")  # fmt: skip
    encoder = TokenTransformer(model, replace(_layout("flatmap"), window=400))
    objective = MaskedAutoencoder(encoder, OBJECTIVE, window=400)
    for table in (encoder.temporal, objective.decoder.temporal):
        assert table.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.spatial.abs().max() < 0.1
    weight = encoder.blocks[0].mlp.outer.weight
    limit = (6 / 128) ** 0.5
    assert weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
    assert objective.decoder.head.weight.abs().max() == 0
    norms = [part for part in objective.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_padding_and_chunks_do_not_change_the_loss(decoder):
    options = {"masking": "tube", "decoder": decoder}
    both = _objective(**options)(_batch((8, 5))).loss
    model = _objective(**options, chunk=3)
    parts = [
        model(part).loss for part in (_rows(_batch((8, 5)), 0, 8), _rows(_batch((8, 5)), 1, 5))
    ]
    torch.testing.assert_close(both.total, parts[0].total + parts[1].total, rtol=1e-4, atol=1e-3)
    assert both.n_values == parts[0].n_values + parts[1].n_values


def test_every_weight_gets_a_gradient_and_a_new_model_predicts_the_mean():
    for kind in ("plain", "flatmap", "network"):
        model = _objective(kind)
        batch = _batch(dim=1 if kind == "network" else 4)
        model(batch).loss.total.backward()
        assert all(p.grad is not None for p in model.parameters())
        new = MaskedAutoencoder(TokenTransformer(MODEL, _layout(kind)), OBJECTIVE, window=16)
        measures = new(batch, measure=True).measures
        torch.testing.assert_close(measures["loss"].total, measures["loss_mean_token"].total)


def _rows(batch, row, n):
    tensors = {name: x[row : row + 1] for name, x in batch._asdict().items() if torch.is_tensor(x)}
    tensors["tokens"], tensors["times"] = tensors["tokens"][:, :n], tensors["times"][:, :n]
    return batch._replace(**tensors | {"valid": None})
