"""Flat maps: pixels agree with barycentric interpolation, and left is left, front is front."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from matplotlib.tri import LinearTriInterpolator, Triangulation

from fmritok.errors import FmritokError
from fmritok.tokenizers.flatmap.cortex import CortexTemplate, Hemisphere, load_template
from fmritok.tokenizers.flatmap.geometry import Geometry
from fmritok.tokenizers.flatmap.pixels import build_flat_grid


@pytest.fixture(params=["fsaverage5", "fslr"])
def template(request):
    if request.param == "fslr":
        return load_template(str(request.getfixturevalue("fslr")))
    return load_template()


def painted(flat, values):
    """Return an image of values given at vertices; NaN where there is no cortex."""
    image = np.full(flat.shape, np.nan)
    image.flat[flat.pixel] = (flat.weight * values[flat.vertex]).sum(axis=1)
    return image


def test_pixels_equal_triangulated_interpolation_where_that_is_valid(template, rng):
    flat = build_flat_grid(template)
    values = rng.standard_normal(sum(template.n_vertices))
    image = painted(flat, values)
    first, compared = 0, 0
    for h in template.hemispheres:
        # Where each pixel's centre lies on the flat surface, by the positions of its vertices.
        owner = flat.vertex[:, 0]
        mine = np.flatnonzero((owner >= first) & (owner < first + len(h.flat)))
        used = np.unique(flat.vertex[mine]) - first
        centre = np.einsum("pk,pkd->pd", flat.weight[mine], h.flat[flat.vertex[mine] - first])
        # matplotlib's finder wants a valid triangulation: only triangles the usual way round, and
        # no vertex that is in none.
        a, b, c = (h.flat[h.faces[:, i]] for i in range(3))
        area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        faces = h.faces[(area * np.sign(area.sum()) > 0) & np.isin(h.faces, used).all(axis=1)]
        kept, faces = np.unique(faces, return_inverse=True)
        finder = LinearTriInterpolator(
            Triangulation(*h.flat[kept].T, faces.reshape(-1, 3)), values[first + kept]
        )
        reference = finder(*centre.T)
        valid = ~np.ma.getmaskarray(reference)
        found = image.flat[flat.pixel[mine]]
        close = np.isclose(found[valid], reference[valid], atol=1e-6)
        compared += int(valid.sum())
        # Where flipped triangles lie on others, there are two right answers.
        assert close.mean() > 0.999
        first += len(h.flat)
    assert compared > 0.99 * len(flat.pixel)


def test_all_pixels_of_a_small_triangulation_are_right(rng):
    """Every pixel of a mesh of known triangles, and none outside of it."""
    points = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    height = np.zeros((4, 3))
    h = Hemisphere(points, faces, height, height, np.ones(4, bool))
    template = CortexTemplate("square", (16, 48), h, h, Geometry(), False, "")
    flat = build_flat_grid(template)
    assert flat.pixel_mm == 0.65  # 10 + 8 + 10 mm in 48 pixels, 10 mm in 16
    image = painted(flat, np.concatenate([points[:, 0], 100 + points[:, 1]]))
    left = np.argwhere(np.isfinite(image) & (image < 50))
    right = np.argwhere(image > 50)
    assert len(left) == pytest.approx((10 / 0.65) ** 2, rel=0.15)
    x0 = (48 * 0.65 - 28) / 2
    np.testing.assert_allclose(image[tuple(left.T)], (left[:, 1] + 0.5) * 0.65 - x0, atol=1e-9)
    y0 = (16 * 0.65 - 10) / 2
    np.testing.assert_allclose(
        image[tuple(right.T)] - 100, (16 - right[:, 0] - 0.5) * 0.65 - y0, atol=1e-9
    )


def test_left_is_left_and_front_is_front(template):
    flat = build_flat_grid(template)
    x, y, z = (
        painted(flat, np.concatenate([h.middle[:, axis] for h in template.hemispheres]))
        for axis in range(3)
    )
    middle = flat.shape[1] // 2
    with np.errstate(invalid="ignore"):
        assert np.nanmean(x[:, :middle] < 0) == pytest.approx(
            np.isfinite(x[:, :middle]).mean(), abs=0.03
        )
        assert np.nanmean(x[:, middle:] > 0) == pytest.approx(
            np.isfinite(x[:, middle:]).mean(), abs=0.03
        )
    columns = np.broadcast_to(np.arange(flat.shape[1]), flat.shape)
    rows = np.broadcast_to(np.arange(flat.shape[0])[:, None], flat.shape)
    for half, outwards in ((slice(None, middle), -1), (slice(middle, None), 1)):
        inside = np.isfinite(y[:, half])
        front = np.corrcoef(columns[:, half][inside], y[:, half][inside])[0, 1]
        assert outwards * front > 0.8, "anterior lies outwards"
        up = np.corrcoef(rows[:, half][inside], z[:, half][inside])[0, 1]
        assert up < -0.7, "superior lies up"


def test_cells_hold_every_valid_pixel_once(template):
    flat = build_flat_grid(template)
    assert len(np.unique(flat.feature)) == len(flat.pixel) == flat.mask.sum()
    assert flat.mask.any(axis=1).all()
    row, column = np.divmod(flat.pixel, flat.shape[1])
    cell = flat.cell[flat.feature // 256]
    inside = flat.feature % 256
    np.testing.assert_array_equal(cell[:, 0] * 16 + inside // 16, row)
    np.testing.assert_array_equal(cell[:, 1] * 16 + inside % 16, column)


def test_weights_are_shares(template):
    flat = build_flat_grid(template)
    assert flat.weight.min() >= 0
    np.testing.assert_allclose(flat.weight.sum(axis=1), 1)


def test_the_fs_lr_map_has_the_published_grid(fslr):
    flat = build_flat_grid(load_template(str(fslr)))
    assert flat.shape == (224, 560)
    assert 60_000 < len(flat.pixel) < 90_000


def test_templates_that_do_not_fit_are_refused(fslr, tmp_path):
    shutil.copytree(fslr, tmp_path, dirs_exist_ok=True)
    text = (fslr / "template.yaml").read_text()
    (tmp_path / "template.yaml").write_text(text.replace("224", "200"))
    with pytest.raises(FmritokError, match="multiples of 16"):
        build_flat_grid(load_template(str(tmp_path)))
    mixed = text.replace("conte69_32k_lh", "L.sphere.32k_fs_LR").replace(
        ".surf.gii", ".gone.gii", 1
    )
    (tmp_path / "template.yaml").write_text(mixed)
    with pytest.raises(FmritokError, match="Surface file .*gone.gii.*Check the path"):
        load_template(str(tmp_path))
    with pytest.raises(FmritokError, match=r"fsaverage5, or a template\.yaml"):
        load_template(str(tmp_path / "nowhere"))
