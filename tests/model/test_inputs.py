"""The three input forms equal their float64 definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data.reading import WindowReader
from fmritok.trainer.data.windows import Request, RunIndex
from fmritok.trainer.model.inputs import model_inputs


@pytest.fixture(params=["int8", "float16"])
def batch_and_truth(request, make_store):
    """Read a batch with a constant feature and a short run; and what is stored, in float64."""

    def values(i, n):
        x = 3 + 0.02 * np.random.default_rng(i).standard_normal((n, 3, 4))
        x[:, 1, 2] = 0.1
        return x

    location, written = make_store(
        [40, 5], n_tokens=3, dim=4, precision=request.param, values=values
    )
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    reader = WindowReader(group, index)
    batch = reader.__getitems__([Request(0, 0, 0, 7, 16, 1), Request(0, 1, 1, 0, 5, 2)])
    truth = []
    for i, (first, n) in enumerate([(7, 16), (0, 5)]):
        m = group.statistics(i)
        stored = group.read(int(index.start[i]) + first, n).astype(np.float64)
        mean, std = m.mean.astype(np.float64), m.std.astype(np.float64)
        value = stored if m.scale is None else mean + m.scale.astype(np.float64) * stored
        z = np.divide(value - mean, std, out=np.zeros_like(value), where=std > 0)
        raw = written[str(index.run_id[i])][first : first + n]
        truth.append((value, z, raw))
    return batch, truth


def test_absolute_is_the_value(batch_and_truth):
    batch, truth = batch_and_truth
    inputs = model_inputs(batch, "absolute")
    assert inputs.static is None
    for i, (value, _, raw) in enumerate(truth):
        got = inputs.frames[i, : len(value)].numpy()
        np.testing.assert_allclose(got, value, rtol=1e-6)
        np.testing.assert_allclose(got, raw, atol=2e-3)
        assert (inputs.frames[i, len(value) :] == 0).all()


@pytest.mark.parametrize("form", ["residual", "both"])
def test_residuals_are_standardized_deviations(batch_and_truth, form):
    batch, truth = batch_and_truth
    inputs = model_inputs(batch, form)
    assert inputs.frames.dtype == torch.float32
    for i, (_, z, _) in enumerate(truth):
        got = inputs.frames[i, : len(z)].numpy()
        tolerance = 2e-5 if batch.scale is None else 2e-6
        np.testing.assert_allclose(got, z, rtol=tolerance, atol=tolerance)
        assert (got[:, 1, 2] == 0).all()
        assert (inputs.frames[i, len(z) :] == 0).all()
    assert (inputs.static is batch.mean) == (form == "both")


def test_residuals_keep_what_bfloat16_would_lose(make_store):
    """Cast after the mean is taken away, time courses survive; cast before, they do not."""
    location, written = make_store(
        [64], n_tokens=2, dim=8,
        values=lambda i, n: 3 + 0.016 * np.random.default_rng(i).standard_normal((n, 2, 8)),
    )  # fmt: skip
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    batch = WindowReader(group, index).__getitems__([Request(0, 0, 0, 0, 64, 1)])
    truth = torch.from_numpy(next(iter(written.values())))
    truth = (truth - truth.mean(0)) / truth.std(0, correction=0)
    errors = {}
    for form in ("absolute", "residual"):
        x = model_inputs(batch, form).frames[0].bfloat16().float()
        x = (x - x.mean(0)) / truth.std(0) / (0.016 if form == "absolute" else 1)
        errors[form] = float((x - truth).square().mean().sqrt())
    assert errors["residual"] < 0.03
    assert errors["absolute"] > 0.15
