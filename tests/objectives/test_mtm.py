"""Masked-token modelling: masks, purity, and losses equal to their float64 definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import Request, RunIndex
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.model.inputs import model_inputs
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.masks import hidden_tokens, random_visible, tube_cells
from fmritok.trainer.objectives.mtm import MaskedTokenModelling


@pytest.fixture
def batch(make_store):
    """Read a padded batch of 6 x 4 tokens with a feature that never moves."""

    def values(i, n):
        x = 3 + 0.1 * np.random.default_rng(i).standard_normal((n, 6, 4))
        x[:, 1:4, 2] = 0.1
        return x

    location, _ = make_store([40, 5], n_tokens=6, dim=4, values=values)
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    reader = WindowReader(group, index)
    return reader.__getitems__([Request(0, 0, 0, 7, 16, 11), Request(0, 1, 1, 0, 5, 22)])


def _objective(form="both", **options):
    torch.manual_seed(0)
    config = ModelConfig(input=form, width=32, layers=1, heads=2, kv_heads=1, mlp_width=32)
    encoder = TokenTransformer(config, TokenLayout(6, 4))
    model = MaskedTokenModelling(encoder, MaskedTokenModelling.Config(**options), window=16)
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.mask_vector)
    return model


@pytest.mark.parametrize(("ratio", "masked"), [(0.5, 14), (0.01, 1), (0.99, 26)])
def test_how_many_cells_are_hidden(ratio, masked):
    encoder = TokenTransformer(ModelConfig(width=8, mlp_width=8), TokenLayout(27, 3))
    config = MaskedTokenModelling.Config(mask_ratio=ratio)
    assert MaskedTokenModelling(encoder, config, window=16).n_masked == masked
    one = TokenTransformer(ModelConfig(width=8, mlp_width=8), TokenLayout(1, 3))
    with pytest.raises(TrainingError, match="2 or more tokens per frame, got 1"):
        MaskedTokenModelling(one, config, window=16)


def test_masks_are_pure_functions_of_the_windows_own_number():
    draws = torch.tensor([5, 2**62, 5, 0])
    cells = tube_cells(draws, n_cells=27, n_chosen=14)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(tube_cells(draws, n_cells=27, n_chosen=14), cells)
    assert torch.equal(tube_cells(draws.flip(0), n_cells=27, n_chosen=14), cells.flip(0))
    assert torch.equal(cells[0], cells[2])
    assert not torch.equal(cells[0], cells[1])
    assert all(len(set(row)) == 14 and row == sorted(row) for row in cells.tolist())
    many = tube_cells(torch.arange(2000), n_cells=27, n_chosen=14)
    share = torch.bincount(many.flatten(), minlength=27) / 2000
    assert ((share - 14 / 27).abs() < 0.05).all()


def _hidden(batch, masking):
    """Return what is hidden of each window [B T S], padding left out."""
    if masking == "tube":
        cells = tube_cells(batch.draws, n_cells=6, n_chosen=3)
        hidden = torch.zeros(2, 6, dtype=torch.bool).scatter(1, cells, True)
        return hidden[:, None] & batch.valid[..., None]
    shown = random_visible(batch.draws, batch.valid, n_patches=16, n_cells=6, share=0.5)
    index, keep = hidden_tokens(shown, batch.valid, n_patches=16, n_cells=6)
    return torch.stack([
        torch.isin(torch.arange(96), row[kept]).view(16, 6)
        for row, kept in zip(index, keep, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("masking", ["tube", "random"])
@pytest.mark.parametrize("form", ["residual", "both", "absolute"])
def test_what_is_hidden_does_not_reach_the_encoder(batch, form, masking):
    model = _objective(form, masking=masking)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    hidden = _hidden(batch, masking)
    assert hidden.sum((1, 2)).tolist() == [48, 15]
    shown = batch.valid[..., None] & ~hidden
    model(batch)
    model(batch._replace(tokens=batch.tokens + 40 * hidden[..., None].to(torch.int8)))
    model(batch._replace(tokens=batch.tokens + 40 * shown[..., None].to(torch.int8)))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][hidden], model.mask_vector.detach().expand_as(seen[0][hidden]))
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("masking", ["tube", "random"])
@pytest.mark.parametrize("form", ["residual", "both", "absolute"])
def test_losses_equal_their_float64_definitions(batch, form, masking):
    model = _objective(form, masking=masking).eval()
    encoded = []
    model.encoder.register_forward_hook(lambda *call: encoded.append((call[1][4], call[2].tokens)))
    with torch.no_grad():
        output = model(batch, measure=True)
        guesses = torch.zeros(2, 16 * 6, 4, dtype=torch.float64)
        for one, index, x in zip(guesses, *encoded[0], strict=True):
            one[index] = model.head(x).double()
    got = {name: float(m.total / m.n_values) for name, m in output.measures.items()}
    inputs = model_inputs(batch, form).frames.double()
    hidden = _hidden(batch, masking)

    errors, trivial, last, residual, residual_trivial = [], [], [], [], []
    for i in range(2):
        for cell in range(6):
            frames = hidden[i, :, cell]
            if not frames.any():
                continue
            mean, std = batch.mean[i, cell].double(), batch.std[i, cell].double()
            course = inputs[i, :, cell]
            target, guess = course[frames], guesses[i].view(16, 6, 4)[frames, cell]
            errors.append(target - guess)
            course_mean = mean if form == "absolute" else torch.zeros_like(mean)
            trivial.append(target - course_mean)
            last.append(target - torch.cat([course_mean[None], course[:-1]])[frames])
            unit = std if form == "absolute" else torch.ones_like(std)
            target, guess = ((x - x.mean(0)) / unit for x in (target, guess))
            residual.append((guess - target)[:, std > 0])
            residual_trivial.append(target[:, std > 0])

    def l1(parts):
        return float(torch.cat([p.flatten() for p in parts]).abs().mean())

    assert float(output.loss.value) == pytest.approx(l1(errors), rel=1e-5)
    assert got == {
        "loss": pytest.approx(l1(errors), rel=1e-5),
        "loss_mean_token": pytest.approx(l1(trivial), rel=1e-4),
        "loss_last_frame": pytest.approx(l1(last), rel=1e-4),
        "residual_loss": pytest.approx(l1(residual), rel=1e-4),
        "residual_loss_mean_token": pytest.approx(l1(residual_trivial), rel=1e-4),
    }
    assert any(p.shape[1] == 3 for p in residual), "a feature that never moves must be hidden once"


def test_a_new_model_predicts_the_mean_token(batch):
    encoder = TokenTransformer(ModelConfig(width=8, mlp_width=8), TokenLayout(6, 4))
    model = MaskedTokenModelling(encoder, MaskedTokenModelling.Config(), window=16)
    measures = model(batch, measure=True).measures
    assert torch.equal(measures["loss"].total, measures["loss_mean_token"].total)
    torch.testing.assert_close(
        measures["residual_loss"].total, measures["residual_loss_mean_token"].total
    )


def test_padding_does_not_change_the_loss(batch):
    model = _objective("both")
    full, short = (
        batch._replace(
            tokens=batch.tokens[i : i + 1, :n], times=batch.times[i : i + 1, :n], valid=None,
            mean=batch.mean[i : i + 1], std=batch.std[i : i + 1], scale=batch.scale[i : i + 1],
            draws=batch.draws[i : i + 1],
        )
        for i, n in ((0, 16), (1, 5))
    )  # fmt: skip
    one, other = model(full).loss.value, model(short).loss.value
    torch.testing.assert_close(model(batch).loss.value, (16 * one + 5 * other) / 21)
