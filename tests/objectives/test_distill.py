"""Self-distillation: schedules, losses equal to float64 definitions, and collapse seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.inputs import deviations
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.coding_rate import (
    centred,
    coding_rate,
    collapsed_loss,
    rate_loss,
    spread,
)
from fmritok.trainer.objectives.distill import (
    SelfDistillation,
    network_weight,
    teacher_momentum,
)

MODEL = ModelConfig(width=32, layers=1, heads=2, kv_heads=1, mlp_width=32, input="residual")
OBJECTIVE = SelfDistillation.Config(head_width=24, projection=8)
DRAWS = torch.arange(400) * 7919


def _unit(*shape):
    torch.manual_seed(0)
    return F.normalize(torch.randn(*shape), dim=-1)


def test_schedules_at_their_ends_and_middle():
    assert [teacher_momentum(p, 0.99) for p in (0, 0.5, 1)] == pytest.approx([0.99, 0.995, 1.0])
    weights = [network_weight(p, 0.5, 0.05) for p in (0, 0.0125, 0.025, 0.05, 0.5, 1)]
    assert weights == pytest.approx([0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0, 0, 0])
    assert network_weight(0, 0.5, 0.0) == 0


def test_the_coding_rate_equals_its_eigenvalues_in_float64():
    x, m, p, eps = _unit(12, 8), 12, 8, 0.05
    values = np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy())
    rate = 0.5 * np.log1p(p / (m * eps) * values).sum() * (p + m) / (p * m)
    assert float(coding_rate(x, epsilon=eps)) == pytest.approx(rate, rel=1e-10)


def test_the_coding_rate_in_closed_form():
    """All rows equal; and one row along each direction."""
    p, eps = 8, 0.05
    same = _unit(1, p).expand(20, p)
    rate = 0.5 * math.log(1 + p / eps) * (p + 20) / (p * 20)
    assert float(coding_rate(same, epsilon=eps)) == pytest.approx(rate, rel=1e-6)
    even = 0.5 * p * math.log(1 + 1 / eps) * (2 * p) / p**2
    assert float(coding_rate(torch.eye(p), epsilon=eps)) == pytest.approx(even)
    assert even > rate


def test_the_determinant_is_computed_in_float64_under_autocast():
    x = _unit(12, 8)
    exact = rate_loss(x.view(2, 6, 8), x.flip(0).view(2, 6, 8), epsilon=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        cast = rate_loss(x.view(2, 6, 8), x.flip(0).view(2, 6, 8), epsilon=0.05)
    assert torch.equal(exact, cast)


def test_the_rate_loss_equals_its_definition():
    student, teacher = _unit(2, 6, 8), _unit(4, 6, 8)[2:]
    s, t = student.double(), teacher.double()
    cosine = ((s[0] * t[1]).sum(-1).mean() + (s[1] * t[0]).sum(-1).mean()) / 2
    rates = [coding_rate((s[i] + t[i]) / 2, epsilon=0.1) for i in range(2)]
    expected = -cosine - sum(rates) / 2
    assert float(rate_loss(student, teacher, epsilon=0.1)) == pytest.approx(float(expected))


def test_spread_distinguishes_collapsed_and_uniform_embeddings():
    same = _unit(1, 8).expand(30, 8)
    views = same.expand(2, 30, 8)
    collapsed = collapsed_loss(torch.tensor(30.0), 8, epsilon=0.05)
    torch.testing.assert_close(rate_loss(views, views, epsilon=0.05), collapsed)
    std, rank = spread(same)
    assert std < 1e-6
    assert rank == pytest.approx(1.0, abs=1e-3)
    std, rank = spread(torch.cat([torch.eye(8), -torch.eye(8)]))
    assert std == pytest.approx(1.0)
    assert rank == pytest.approx(8.0)
    two = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    assert spread(two).rank == pytest.approx(1.0)
    even = _unit(30, 8)
    assert rate_loss(torch.stack([even, even]), torch.stack([even, even]), epsilon=0.05) < collapsed


def test_standardized_views_do_not_reveal_their_run():
    """Means and standard deviations of a run change what is compared, unless it is standardized."""
    batch = _batch()
    factor = torch.linspace(0.5, 2, batch.std[0].numel()).view_as(batch.std[0])
    other = batch._replace(std=batch.std * factor, mean=batch.mean + factor)
    losses = {
        name: [
            float(_objective(standardize=name)(each).loss.value.detach()) for each in (batch, other)
        ]
        for name in (False, True)
    }
    assert abs(losses[False][0] - losses[False][1]) > 1e-3
    assert losses[True][0] == pytest.approx(losses[True][1], abs=1e-5)


def test_the_start_of_head_and_mask_vector_follows_the_options():
    model = _objective(head_std=0.001, mask_std=1.0)
    student = model.student
    assert student.head[0].weight.abs().max() < 0.01
    assert not student.head[2].bias.any()
    assert 0.5 < student.mask_vector.std() < 1.5
    assert not _objective().student.mask_vector.any()


def test_the_teacher_has_no_dropout():
    torch.manual_seed(0)
    encoder = TokenTransformer(replace(MODEL, mlp_dropout=0.5), TokenLayout(6, 4, 1))
    model = SelfDistillation(encoder, OBJECTIVE, window=24).train()
    assert model.student.training
    assert not any(part.training for part in model.teacher.modules())


def _batch(lengths=(24, 24, 24, 24), kind="network"):
    torch.manual_seed(3)
    B, T, S, D = len(lengths), max(lengths), 6, 1 if kind == "network" else 4
    valid = torch.arange(T) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(-99, 99, (B, T, S, D)) * valid[..., None, None]
    std = 0.5 + torch.rand(B, S, D)
    return Batch(
        tokens.to(torch.int8), torch.randn(B, S, D), std, std / 40,
        torch.arange(T).expand(B, T) * 2.0, None if valid.all() else valid, torch.arange(B),
        torch.arange(B) + 5, 0, B, sum(lengths),
    )  # fmt: skip


def _objective(kind="network", form="residual", **options):
    torch.manual_seed(0)
    layout = {
        "network": TokenLayout(6, 1, 4, network=np.array([0, 0, 1, 1, 1, 2])),
        "flatmap": TokenLayout(6, 4, 4, pixel_mask=np.arange(24).reshape(6, 4) % 5 > 0),
        "plain": TokenLayout(6, 4, 1),
    }[kind]
    encoder = TokenTransformer(replace(MODEL, input=form), layout)
    return SelfDistillation(encoder, replace(OBJECTIVE, **options), window=24)


def test_the_whole_loss_equals_its_float64_definition():
    model, batch = _objective(slice_probability=1.0), _batch((24, 24, 24, 10))
    with torch.no_grad():
        for p in model.teacher.parameters():
            p.add_(0.1 * torch.randn_like(p))
    calls = {"student": [], "teacher": []}
    for name, taken in calls.items():
        getattr(model, name).register_forward_hook(
            lambda _, args, out, taken=taken: taken.append((args, [x.double() for x in out]))
        )
    progress = 0.02
    with torch.no_grad():
        loss = model(batch, progress=progress).loss

    def rate(i):
        s, t = ([call[1][i].flatten(0, -2) for call in calls[n]] for n in ("student", "teacher"))
        together = ((s[0] * t[1]).sum(-1).mean() + (s[1] * t[0]).sum(-1).mean()) / 2
        apart = sum(coding_rate((s[v] + t[v]) / 2, epsilon=0.05) for v in range(2)) / 2
        return -together - apart

    tokens = []
    for (args, student), (_, teacher) in zip(calls["student"], calls["teacher"], strict=True):
        for b in range(4):
            hidden = args[1][b]
            if args[0].valid is not None:
                hidden = hidden & args[0].valid[b][:, None]
            cosine = (student[1][b] * teacher[1][b]).sum(-1)[hidden]
            tokens.append(-cosine.mean() if len(cosine) else cosine.sum())
    weight = 0.25 * (1 + math.cos(math.pi * progress / 0.05))
    expected = rate(0) + 0.5 * sum(tokens) / 8 + weight * rate(2)
    assert float(loss.value) == pytest.approx(float(expected), rel=1e-5)
    assert loss.n_values == 4


def test_summaries_are_cls_the_mean_token_or_the_mean_tokens_of_cells():
    for summary in ("cls", "mean", "cells"):
        student, batch = _objective(summary=summary).student, _batch((24, 10))
        inputs = student.encoder.inputs(batch)
        B, U, C, _ = inputs.patches.shape
        with torch.no_grad():
            found = student(inputs, torch.zeros(B, U, C, dtype=torch.bool))[0]
            encoded = student.encoder(
                student.encoder.embed(inputs.patches), None, inputs.times, inputs.valid
            )
            valid = inputs.valid.double()[:, :, None, None]
            cells = ((encoded.tokens.double() * valid).sum(1) / valid.sum(1)).float()
            wanted = {"cls": encoded.cls, "mean": cells.mean(1)}.get(summary)
            if wanted is None:
                wanted = student.gather(torch.cat([cells[:, c] for c in range(C)], dim=1))
            wanted = torch.nn.functional.normalize(student.head(wanted), dim=-1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_teacher_sees_everything_and_is_an_average():
    model, batch = _objective(slice_probability=1.0), _batch()
    seen = []
    model.teacher.register_forward_hook(lambda _, args, out: seen.append(args[1]))
    model(batch).loss.total.backward()
    assert not any(hidden.any() for hidden in seen)
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    before = [p.clone() for p in model.teacher.parameters()]
    with torch.no_grad():
        for p in model.student.parameters():
            p.add_(1.0)
    model.after_step(0.5)
    for old, slow, fast in zip(before, model.teacher.parameters(), model.student.parameters(),
                               strict=True):  # fmt: skip
        torch.testing.assert_close(slow, 0.995 * old + 0.005 * fast)
    assert model.features is model.teacher.encoder


@pytest.mark.parametrize("kind", ["plain", "flatmap", "network"])
@pytest.mark.parametrize("form", ["residual", "both", "absolute"])
def test_every_group_and_form_trains_and_reports(kind, form):
    model = _objective(kind, form)
    measures = model(_batch(kind=kind), measure=True, progress=0.0).measures
    assert measures.keys() == {
        "loss", "loss_collapsed", "loss_cls", "loss_tokens", "embedding_std", "effective_rank",
        "agreement", "alignment",
    }  # fmt: skip
    assert all(torch.isfinite(m.value) for m in measures.values())
    assert 1 <= measures["effective_rank"].value < 4


@pytest.mark.parametrize("centre", [False, True])
def test_a_collapsed_model_has_the_collapsed_loss(centre):
    model = _objective(slice_probability=1.0, centre=centre)
    for part in (model.student, model.teacher):
        torch.nn.init.zeros_(part.head[2].weight)
        torch.nn.init.ones_(part.head[2].bias)
    for progress in (0.0, 1.0):
        measures = model(_batch(), measure=True, progress=progress).measures
        assert float(measures["loss"].value) == pytest.approx(
            float(measures["loss_collapsed"].value), rel=1e-5
        )
        assert measures["embedding_std"].value < 1e-3
        assert measures["agreement"].value == pytest.approx(0.0 if centre else 1.0, abs=1e-5)
        assert measures["alignment"].value == pytest.approx(0.0, abs=1e-5)


def test_centred_embeddings_have_no_common_mean():
    """Equal to taking the mean away by hand; rows that do not count change nothing for others."""
    model, plain = _objective(centre=True), _objective()
    inputs = model._view(batch := _batch(), deviations(batch), 0)
    hidden = torch.zeros(inputs.patches.shape[:3], dtype=torch.bool)
    raw = []
    plain.student.head.register_forward_hook(lambda *call: raw.append(call[2].detach().double()))
    others = plain.student(inputs, hidden)
    got = model.student(inputs, hidden)
    expected = torch.nn.functional.normalize(raw[0] - raw[0].mean(0), dim=-1)
    torch.testing.assert_close(got[0].double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(got[1], others[1])
    assert torch.equal(got[2], others[2])
    x = torch.randn(5, 3)
    torch.testing.assert_close(centred(x), x - x.mean(0))


def test_alignment_is_the_cosine_within_windows_minus_between_windows():
    model = _objective(slice_probability=0.0, momentum=0.0)
    embedded = []
    for part in (model.student, model.teacher):
        part.register_forward_hook(lambda *call: embedded.append(call[2][0].detach().double()))
    torch.nn.init.normal_(model.student.head[2].weight)
    batch = _batch()
    got = float(model(batch, measure=True).measures["alignment"].value)
    one, teacher_one, other, teacher_other = embedded
    expected = 0.0
    for student, teacher in ((one, teacher_other), (other, teacher_one)):
        cosine = [[float(s @ t) for t in teacher] for s in student]
        n = len(cosine)
        expected += sum(cosine[i][i] for i in range(n)) / n / 2
        expected -= (
            sum(cosine[i][j] for i in range(n) for j in range(n) if i != j) / n / (n - 1) / 2
        )
    assert abs(expected) > 1e-3
    assert got == pytest.approx(expected, abs=1e-5)
