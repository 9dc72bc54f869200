"""The shading of a flat map shows where the folded surface is a valley."""

from __future__ import annotations

import numpy as np

from fmritok.tokenizers.flatmap.cortex import CortexTemplate, Hemisphere
from fmritok.tokenizers.flatmap.geometry import Geometry
from fmritok.tokenizers.flatmap.pixels import build_flat_grid
from fmritok.tokenizers.flatmap.shading import sulcal_shading


def folded(size: int = 40) -> Hemisphere:
    """Return a sheet of 1 mm triangles that is folded along x with a period of 20 mm."""
    x, y = np.meshgrid(np.arange(size, dtype=float), np.arange(size, dtype=float), indexing="ij")
    flat = np.stack([x.ravel(), y.ravel()], axis=1)
    height = 3 * np.cos(2 * np.pi * x / 20).ravel()
    middle = np.column_stack([flat, height])
    corner = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + size, corner + 1], 1),
         np.stack([corner + 1, corner + size, corner + size + 1], 1)]
    )  # fmt: skip
    up = np.array([0, 0, 0.5])
    return Hemisphere(flat, faces, middle - up, middle + up, np.ones(len(flat), bool))


def test_valleys_are_sulci_and_crests_are_not():
    sheet = folded()
    template = CortexTemplate("sheet", (48, 96), sheet, sheet, Geometry(), False, "")
    flat = build_flat_grid(template)
    image = sulcal_shading(template, flat)
    assert image.shape == (48, 96)
    assert np.array_equal(np.isfinite(image).ravel().nonzero()[0], flat.pixel)
    where = np.concatenate([sheet.flat, sheet.flat])
    x = np.einsum("pk,pk->p", flat.weight, where[flat.vertex, 0])
    shades = image.ravel()[flat.pixel]
    inner = (x > 3) & (x < 36)
    depth = -np.cos(2 * np.pi * x / 20)
    assert shades[inner & (depth > 0.9)].min() > 0.6
    assert shades[inner & (depth < -0.9)].max() < 0.4
