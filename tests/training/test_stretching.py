"""Windows are stretched in time by their own random numbers, and in training alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fmritok.trainer.config import DataConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.training.stretching import stretched

CONFIG = DataConfig(window=16, tr_scale=0.8)
TR = 2.0


def a_batch(draws, lengths=None):
    """Return windows of 20 frames whose tokens are the number of the frame, as int8."""
    n = len(draws)
    frames = torch.arange(20, dtype=torch.int8)[None, :, None, None].repeat(n, 1, 2, 3)
    valid = None if lengths is None else torch.arange(20) < torch.tensor(lengths)[:, None]
    ones = torch.ones(n, 2, 3)
    return Batch(
        frames, ones, ones, ones, TR * torch.arange(20.0).repeat(n, 1), valid,
        torch.zeros(n, dtype=torch.int64), torch.tensor(draws), 0, n, n * 20,
    )  # fmt: skip


def test_windows_are_stretched_between_the_limits_and_their_times_follow():
    assert CONFIG.training_window == 20
    found = stretched(a_batch(list(range(300))), CONFIG)
    assert found.tokens.shape == (300, 16, 2, 3)
    middle = found.tokens[:, 4:12, 0, 0]
    rates = middle.diff(dim=1)
    assert (rates - rates[:, :1]).abs().max() < 1e-5, "frames are evenly spaced"
    taken = 16 * rates[:, 0]
    assert set(taken.round().int().tolist()) == set(range(13, 21))
    assert float(found.tokens.min()) == 0
    assert float(found.tokens.max()) == 19
    torch.testing.assert_close(found.times[:, 4:12].diff(dim=1), TR * rates)
    assert (found.times[:, 0] == 0).all()
    assert found.n_frames == 300 * 16
    assert found.valid is None


def test_frames_are_interpolated_as_torch_does():
    whole = a_batch([7])._replace(tokens=torch.randn(1, 20, 2, 3))
    found = stretched(whole, CONFIG)
    candidates = [
        F.interpolate(whole.tokens[0, first : first + taken].flatten(1).T[None], size=16,
                      mode="linear")
        for taken in range(13, 21) for first in range(21 - taken)
    ]  # fmt: skip
    own = found.tokens[0].flatten(1).T[None]
    assert min(float((own - one).abs().max()) for one in candidates) < 1e-5


def test_a_window_is_stretched_in_the_same_way_in_every_batch():
    together, alone = stretched(a_batch([3, 5, 9]), CONFIG), stretched(a_batch([5]), CONFIG)
    assert torch.equal(together.tokens[1:2], alone.tokens)
    assert torch.equal(together.times[1:2], alone.times)


@pytest.mark.parametrize("length", [19, 16, 5])
def test_windows_of_short_runs_are_cut_but_not_stretched(length):
    found = stretched(a_batch([3, 5], [20, length]), CONFIG)
    kept = min(length, 16)
    frames = found.tokens[1, :kept, 0, 0]
    assert (frames.diff() == 1).all()
    assert float(frames[-1]) < length
    torch.testing.assert_close(found.times[1], TR * torch.arange(16.0))
    if length < 16:
        assert found.valid.sum(1).tolist() == [16, length]
        assert torch.equal(found.valid, found.host_valid)
    else:
        assert found.valid is None


def test_without_the_option_a_batch_stays_as_it_is():
    batch = a_batch([1])
    assert stretched(batch, DataConfig(window=16)) is batch


@pytest.mark.parametrize("scale", [0, 1, 1.25])
def test_a_scale_outside_0_to_1_is_refused(scale):
    with pytest.raises(ConfigError, match=r"data\.tr_scale: expected above 0 and below 1, or null"):
        DataConfig(tr_scale=scale)


def test_frames_of_a_read_have_to_hold_a_stretched_window():
    with pytest.raises(ConfigError, match=r"data\.read_frames: expected at least 20"):
        DataConfig(window=16, tr_scale=0.8, read_frames=16)
