"""Flat maps and time courses equal those of cortex_mae 0.1.1, from figures of its own code."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fmritok.tokenizers.flatmap.cortex import CortexTemplate, Hemisphere, load_template
from fmritok.tokenizers.flatmap.geometry import PUBLISHED
from fmritok.tokenizers.flatmap.pixels import build_flat_grid
from fmritok.tokenizers.temporal import resample, resampled_frames, standardize


@pytest.fixture(scope="module")
def parity(data):
    return data / "parity"


@pytest.fixture(scope="module")
def colin(parity, fslr):
    """Its stand-in surface: HCP's flat maps, scaled, without the triangles it cannot use."""
    settings = json.loads((parity / "flat/colin.json").read_text())
    inputs = np.load(parity / "flat/colin_inputs.npz")
    cortex = np.unpackbits(np.load(parity / "flat/colin_outputs.npz")["vertex_mask"])
    surfaces = load_template(str(fslr))
    hemispheres, first = [], 0
    for side, h in zip(("left", "right"), surfaces.hemispheres, strict=True):
        flat = (h.flat.astype(np.float32) * np.float32(settings["point_scale"])).astype(np.float64)
        if side == "right":
            flat[:, 1] += settings["right_hemisphere_up_mm"]
        faces = np.delete(h.faces, inputs[f"left_out_{side}"], axis=0)
        own = cortex[first : first + len(flat)].astype(bool)
        first += len(flat)
        hemispheres.append(Hemisphere(flat, faces, h.inner, h.outer, own))
    return CortexTemplate("fsLR", (224, 560), *hemispheres, PUBLISHED, False, "")


def test_the_mask_is_the_same_to_the_pixel(parity, colin):
    outputs = np.load(parity / "flat/colin_outputs.npz")
    published = np.unpackbits(outputs["mask"])[: 224 * 560].astype(bool)
    found = np.zeros(224 * 560, bool)
    found[build_flat_grid(colin).pixel] = True
    assert published.sum() == 65_799
    assert (found == published).all()


def test_painted_values_are_the_same_in_triangles_of_the_mesh(parity, colin):
    """Elsewhere its triangles are not those of the mesh."""
    outputs = np.load(parity / "flat/colin_outputs.npz")
    values = np.load(parity / "flat/colin_inputs.npz")["vertex_values"]
    flat = build_flat_grid(colin)
    found = (flat.weight * values[:, flat.vertex]).sum(axis=2)
    same = np.unpackbits(outputs["mesh_triangle"])[: len(flat.pixel)].astype(bool)
    assert same.mean() > 0.7
    theirs = outputs["frames"].astype(np.float64)
    size = np.maximum(np.abs(theirs), 1)
    assert (np.abs(found - theirs) / size)[:, same].max() < 2e-3  # float16
    assert (np.abs(found - theirs) / size)[:, ~same].max() > 0.1


@pytest.mark.parametrize(
    ("name", "tr", "target"),
    [("072_100", 0.72, 1.0), ("080_100", 0.8, 1.0), ("200_100", 2.0, 1.0), ("072_200", 0.72, 2.0)],
)
def test_resampling_is_that_of_its_pretraining(parity, name, tr, target):
    series = np.load(parity / "cortexmae/transforms_inputs.npz")["resample"].T.copy()
    theirs = np.load(parity / "cortexmae/transforms_outputs.npz")[f"resample_{name}"].T
    n_frames = resampled_frames(series.shape[1], tr, target, whole=True)
    found = resample(series, tr, target, "pchip", padding="even", n_frames=n_frames)
    np.testing.assert_allclose(found, theirs, atol=1e-5 * theirs.std())
    odd = resample(series, tr, target, "pchip", n_frames=n_frames)
    assert (np.abs(odd - theirs).max() > 1e-3) == (target > tr)


def test_standardized_series_are_the_same(parity):
    series = np.load(parity / "cortexmae/transforms_inputs.npz")["series"].T.copy()
    outputs = np.load(parity / "cortexmae/transforms_outputs.npz")
    tiny = series.std(axis=1) <= 1e-6
    standardize(series)
    np.testing.assert_allclose(series[~tiny], outputs["scaled"].T[~tiny], atol=1e-5)
    # Theirs are constant below 1e-6 in units of the data, ours in units of the series' own size.
    assert tiny.sum() == 2
    assert (series[tiny].std(axis=1) > 0.99).sum() == 1
    assert (outputs["scaled"].T[tiny] == 0).all()
    n_frames = resampled_frames(series.shape[1], 0.72, 1.0, whole=True)
    found = resample(series, 0.72, 1.0, "pchip", padding="even", n_frames=n_frames)
    np.testing.assert_allclose(
        found[~tiny], outputs["shard_float16"].T[~tiny], atol=2e-3
    )  # float16


def test_a_frame_that_the_run_does_not_fill_is_left_out():
    assert resampled_frames(181, 0.8, 1.0, whole=True) == 144
    assert resampled_frames(181, 0.8, 1.0) == 145
