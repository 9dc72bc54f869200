"""Pictures of brains show left on the left, mark it, and arrange cells where they belong."""

from __future__ import annotations

import numpy as np

from fmritok.pictures.brain import PLANES, draw_flat, draw_parcels, draw_slice, flat_image
from fmritok.pictures.style import figure_of


def texts(axes) -> dict[str, float]:
    return {text.get_text(): text.get_position()[0] for text in axes.texts}


def test_cells_are_arranged_in_the_image_and_the_rest_is_missing(rng):
    cells = np.array([[0, 1], [1, 0]])
    mask = np.ones((2, 16), bool)
    mask[0, 5] = False
    tokens = rng.standard_normal((3, 2, 16)).astype(np.float32)
    image = flat_image(tokens, cells, mask, (8, 8))
    assert image.shape == (3, 8, 8)
    assert np.isnan(image[:, :4, :4]).all()
    assert np.array_equal(image[:, 4:, :4].reshape(3, 16), tokens[:, 1])
    assert np.isnan(image[:, 1, 5]).all()
    assert image[2, 0, 7] == tokens[2, 0, 3]


def test_flat_maps_mark_left_and_right_and_let_sulci_through_where_values_are_weak():
    axes = figure_of(4, 2).subplots()
    image = np.full((16, 32), np.nan)
    image[2:14, 2:30] = 0.0
    image[4:8, 4:8] = 2.0
    shown = draw_flat(axes, image, shading=np.where(np.isfinite(image), 0.5, np.nan), limit=2.0)
    assert texts(axes)["L"] < 0.5 < texts(axes)["R"]
    opaque = shown.get_alpha()
    assert opaque[0, 0] == 0
    assert opaque[10, 20] < opaque[5, 5]


def test_slices_show_left_on_the_left():
    volume = np.zeros((96, 96, 96))
    volume[:48] = 1.0  # RAS+: small indices are left
    for name, plane, sides in PLANES:
        axes = figure_of(2, 2).subplots()
        shown = draw_slice(axes, volume, plane, sides)
        if name == "sagittal":
            assert "L" not in texts(axes)
            continue
        assert texts(axes)["L"] < 0.5 < texts(axes)["R"]
        data = shown.get_array()
        assert data[:, :48].min() == 1.0
        assert data[:, 48:].max() == 0.0


def test_parcels_are_drawn_at_their_places_strong_ones_on_top():
    places = np.array([[-40.0, 10, 20], [40, -10, 0], [0, 0, 50]])
    axes = figure_of(6, 2).subplots(1, 3)
    shown = draw_parcels(axes, places, np.array([5.0, -1.0, 2.0]))
    above = axes[0].collections[0]
    assert np.array_equal(above.get_offsets()[-1], [-40, 10])
    assert texts(axes[0])["L"] < texts(axes[0])["R"]
    assert "L" not in texts(axes[2])
    assert shown.get_clim()[0] == -shown.get_clim()[1]
