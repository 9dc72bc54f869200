"""Stored values are the same bytes wherever they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmritok.errors import RunError
from fmritok.pipeline.store import precision
from fmritok.pipeline.store.precision import store_precision


def runs(rng) -> dict[str, np.ndarray]:
    """Return runs that are longer than a block, with hard features among them."""
    values = (3 + 0.01 * rng.standard_normal((150, 3, 40))).astype(np.float32)
    values[:, 0, 0] = 0.1  # constant
    values[:, 0, 1] = -0.0
    values[::2, 0, 2] = 1e-30
    values[:, 0, 3] *= 1e4
    return {"long": values, "one": values[:1], "two": values[-2:]}


def plain(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return mean, deviation, scale and int8 residuals by sums over frames, one by one."""
    total = np.zeros(values.shape[1:])
    for frame in values:
        total = total + frame
    exact = total / len(values)
    squares = np.zeros(values.shape[1:])
    for frame in values:
        squares = squares + np.square(frame - exact)
    low, high = values.min(0), values.max(0)
    constant = low == high
    mean = np.where(constant, low, exact.astype(np.float32))
    std = np.where(constant, 0, np.sqrt(squares / len(values)).astype(np.float32))
    scale = np.maximum(high - mean, mean - low) / np.float32(127)
    step = np.where(scale > 0, scale, np.float32(1))
    tokens = np.clip(np.rint((values - mean) / step), -127, 127).astype(np.int8)
    return mean, std, scale, tokens


@pytest.mark.parametrize("name", ["long", "one", "two"])
def test_int8_residuals_are_the_bytes_of_numpy(name, rng):
    values = runs(rng)[name]
    found = store_precision(values, "int8", device="cpu")
    for one, wanted in zip((found.mean, found.std, found.scale, found.tokens), plain(values),
                           strict=True):  # fmt: skip
        assert one.dtype == wanted.dtype
        np.testing.assert_array_equal(one, wanted)


def test_float16_is_numpys_and_too_large_values_are_refused(rng):
    values = runs(rng)["long"]
    found = store_precision(values, "float16")
    np.testing.assert_array_equal(found.tokens, values.astype(np.float16))
    assert found.scale is None
    with pytest.raises(RunError, match="below 65504 for float16, got 1e\\+06"):
        store_precision(values * 0 + 1e6, "float16")


def test_blocks_do_not_change_a_byte(rng, monkeypatch):
    values = runs(rng)["long"]
    whole = store_precision(values, "int8")
    monkeypatch.setattr(precision, "_FRAMES_AT_ONCE", 7)
    parts = store_precision(values, "int8")
    np.testing.assert_array_equal(whole.tokens, parts.tokens)
    np.testing.assert_array_equal(whole.std, parts.std)


def test_all_of_it_is_computed_on_the_device_that_was_named(rng, monkeypatch):
    """The host gets stored values only."""
    values, sent, fetched = runs(rng)["long"], [], []

    def send(x, device):
        sent.append(device)
        return x

    def fetch(x):
        fetched.append(x.dtype)
        return x

    monkeypatch.setattr(precision, "send", send)
    monkeypatch.setattr(precision, "fetch", fetch)
    store_precision(values, "int8", device="cuda:1")
    assert set(sent) == {torch.device("cuda:1")}
    assert fetched == [torch.int8] * 3 + [torch.float32] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(rng, bad):
    values = runs(rng)["long"]
    values[[3, 140], 1, 1] = bad
    with pytest.raises(RunError, match="got 2 NaN or infinite values"):
        store_precision(values, "int8")
