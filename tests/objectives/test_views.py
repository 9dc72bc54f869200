"""Views of self-distillation: crops, standardization, augmentation, and what is hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmritok.trainer.objectives.distill import (
    SelfDistillation,
)
from fmritok.trainer.objectives.views import (
    augment,
    crop_frames,
    default_crop,
    slice_mask,
    standardize,
)

OBJECTIVE = SelfDistillation.Config(head_width=24, projection=8)
DRAWS = torch.arange(400) * 7919


def test_crops_lie_within_windows_and_reach_every_start():
    frames = torch.arange(30.0).view(1, 30, 1, 1).expand(400, 30, 2, 1)
    times = torch.arange(30).expand(400, 30) * 2.0
    valid = torch.arange(30) < torch.where(DRAWS % 2 == 0, 30, 12)[:, None]
    crops = [crop_frames(frames, times, valid, DRAWS, length=20, view=view) for view in (0, 1)]
    for crop in crops:
        assert crop.frames.shape == (400, 20, 2, 1)
        start = crop.frames[:, 0, 0, 0]
        assert torch.equal(crop.frames[:, :, 0, 0], start[:, None] + torch.arange(20))
        assert set(start[::2].tolist()) == set(range(11))
        assert set(start[1::2].tolist()) == {0}
        assert crop.valid.sum(1).tolist() == [20, 12] * 200
        assert torch.equal(crop.times, times[:, :20])
    assert (crops[0].frames != crops[1].frames).any()
    crops = [default_crop(*sizes) for sizes in ((180, 20), (32, 8), (32, 1), (8, 8))]
    assert crops == [120, 16, 21, 8]


def test_separate_views_share_no_frame():
    frames = torch.arange(30.0).view(1, 30, 1, 1).expand(400, 30, 2, 1)
    times = torch.arange(30).expand(400, 30) * 2.0
    one, two = (
        crop_frames(frames, times, None, DRAWS, length=12, view=view, apart=True) for view in (0, 1)
    )
    assert set(one.frames[:, 0, 0, 0].tolist()) == {0, 1, 2, 3}
    assert set(two.frames[:, 0, 0, 0].tolist()) == {15, 16, 17, 18}
    long = crop_frames(frames, times, None, DRAWS, length=20, view=1, apart=True)
    assert set(long.frames[:, 0, 0, 0].tolist()) == {10}, "as far apart as there is room"
    assert default_crop(180, 20, apart=True) == 80


def test_a_crop_is_standardized_over_its_own_frames():
    """Equal to numpy's, over frames that are not padding; what does not vary becomes 0."""
    torch.manual_seed(0)
    frames = 3 + 2 * torch.randn(400, 30, 2, 3)
    frames[..., 2] = 0.7
    times = torch.arange(30).expand(400, 30) * 2.0
    valid = torch.arange(30) < torch.where(DRAWS % 2 == 0, 30, 12)[:, None]
    crop = crop_frames(frames, times, valid, DRAWS, length=20, view=0)
    got = standardize(crop)
    for i in (0, 1):
        n = (20, 12)[i]
        x = crop.frames[i, :n].double().numpy()
        expected = (x - x.mean(0)) / np.where(x.std(0) > 1e-3, x.std(0), np.inf)
        np.testing.assert_allclose(got[i, :n], expected, atol=1e-5)
        assert (got[i, n:] == 0).all()
    assert (got[..., 2] == 0).all()


def test_augmentations_have_the_requested_sizes():
    ones = torch.ones(400, 40, 30, 1)
    quiet = replace(OBJECTIVE, noise=0.0)
    out = augment(ones, DRAWS, quiet, view=0)[..., 0]
    assert torch.equal(out, augment(ones, DRAWS, quiet, view=0)[..., 0])
    assert torch.equal(out[5:6], augment(ones[5:6], DRAWS[5:6], quiet, view=0)[..., 0])
    assert not torch.equal(out, augment(ones, DRAWS, quiet, view=1)[..., 0])
    tokens, frames = (out == 0).all(1).sum(1), (out == 0).all(2).sum(1)
    assert (int(tokens.min()), int(tokens.max())) == (1, 2)
    assert int(frames.min()) == 1
    assert int(frames.max()) in (10, 11)
    edges = torch.diff((out == 0).all(2).int(), dim=1).abs().sum(1)
    assert edges.max() <= 2, "one block of time"
    scale = out.amax((1, 2))
    assert 0.8 <= scale.min() < 0.82
    assert 1.18 < scale.max() <= 1.2
    noise = augment(torch.zeros(400, 40, 30, 1), DRAWS, OBJECTIVE, view=0)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
    most = replace(quiet, drop_tokens=1.0, drop_time=1.0)
    for n_tokens in (1, 2, 5):
        out = augment(torch.ones(400, 4, n_tokens, 1), DRAWS, most, view=0)
        assert out.flatten(1).any(1).all(), "something is left of every view"


def test_half_of_the_views_hide_cells_or_consecutive_patches():
    hidden = slice_mask(DRAWS, None, OBJECTIVE, n_patches=5, n_cells=9, view=0)
    assert torch.equal(hidden, slice_mask(DRAWS, None, OBJECTIVE, n_patches=5, n_cells=9, view=0))
    in_time = hidden.all(2).any(1)
    in_space = hidden.all(1).any(1)
    assert not (in_time & in_space).any()
    for chosen in (in_time, in_space):
        assert float(chosen.float().mean()) == pytest.approx(0.25, abs=0.07)
    assert set(hidden[in_time].all(2).sum(1).tolist()) == {3, 4}
    assert set(hidden[in_space].all(1).sum(1).tolist()) == {5, 6, 7}
    assert torch.diff(hidden[in_time][:, :, 0].int(), dim=1).abs().sum(1).max() <= 2
    # Of padded windows the same: one of their own patches is left, and one is hidden.
    own = torch.where(DRAWS % 2 == 0, 5, 2)
    valid = torch.arange(5) < own[:, None]
    padded = slice_mask(DRAWS, valid, OBJECTIVE, n_patches=5, n_cells=9, view=0)
    assert torch.equal(padded[own == 5], hidden[own == 5])
    assert not (padded & ~valid[..., None]).any()
    some = padded.any((1, 2))
    assert torch.equal(some, hidden.any((1, 2)))
    assert not (padded | ~valid[..., None]).all((1, 2)).any()
    one = slice_mask(DRAWS, None, OBJECTIVE, n_patches=1, n_cells=1, view=0)
    assert not one.any()


def test_numbers_of_hidden_networks_and_patches_as_published():
    config = replace(OBJECTIVE, slice_sizes="published", slice_probability=1.0)
    hidden = slice_mask(DRAWS, None, config, n_patches=5, n_cells=9, view=0)
    in_time = hidden.all(2).any(1)
    assert set(hidden[~in_time].all(1).sum(1).tolist()) == {5, 6}
    lengths = hidden[in_time].all(2).sum(1)
    assert set(lengths.tolist()) == {3, 4}
    # ceil(share x 5) - 1 is 4 for shares above 0.8, a quarter of those from 0.65 to 0.85.
    assert float((lengths == 4).float().mean()) == pytest.approx(0.25, abs=0.09)
    for n in (1, 2, 3):  # something stays visible
        few = slice_mask(DRAWS, None, config, n_patches=n, n_cells=n, view=0)
        assert not few.all((1, 2)).any()
        assert few.any() == (n > 1)


def test_all_views_of_a_batch_hide_something_or_none_does():
    config = replace(OBJECTIVE, slice_draw="batch")
    some = 0
    for first in range(0, 400, 4):
        batch = DRAWS[first : first + 4]
        views = [slice_mask(batch, None, config, n_patches=5, n_cells=9, view=v) for v in (0, 1)]
        found = {bool(mask.any()) for view in views for mask in view}
        assert len(found) == 1
        some += found == {True}
    assert 35 < some < 65
