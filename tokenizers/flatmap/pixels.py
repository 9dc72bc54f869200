"""Rasterization of a flat map: cortical pixels and their barycentric weights.

Both flat hemispheres lie side by side: left on the left, anterior outwards, superior up. A pixel is
cortex if its centre lies in a triangle of the flat mesh. Its value is interpolated between the
vertices of the triangle by barycentric weights.

Real flat surfaces have vertices in no triangle, and a few flipped triangles that overlap others.
In an overlap, triangles with the orientation of the whole map win over flipped ones. Among equals,
the first wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmritok.errors import FmritokError, expected
from fmritok.tokenizers.flatmap.cortex import CortexTemplate, Hemisphere

__all__ = ["CELL", "FlatGrid", "build_flat_grid"]

#: Edge of a cell, pixels.
CELL = 16
#: Gap between the hemispheres, mm.
_GAP_MM = 8.0
#: Triangles with a longer edge bridge a cut and are dropped, mm.
_LONGEST_EDGE_MM = 16.0
_TRIANGLES_AT_ONCE = 20_000
_INSIDE = -1e-9

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FlatGrid:
    """Cortical pixels and cells of a flat map.

    Attributes
    ----------
    shape : tuple of int
        Rows (superior first) and columns (left hemisphere first), pixels.
    pixel_mm : float
        Edge of a pixel.
    pixel : np.ndarray of shape (n_valid,), int64
        Cortical pixels, as indices into the flattened image, ascending.
    vertex : np.ndarray of shape (n_valid, 3), int64
        Vertices of the triangle of each pixel. Right vertices are numbered after left ones.
    weight : np.ndarray of shape (n_valid, 3), float64
        Barycentric weights of these vertices.
    cell : np.ndarray of shape (n_cells, 2), int64
        Row and column of each cell with cortex, in cells, row by row.
    """

    shape: tuple[int, int]
    pixel_mm: float
    pixel: Integers
    vertex: Integers
    weight: Doubles
    cell: Integers

    @property
    def feature(self) -> Integers:
        """Feature index of each pixel: cell * 256 + row in the cell * 16 + column in the cell."""
        row, column = np.divmod(self.pixel, self.shape[1])
        cells = np.full((self.shape[0] // CELL, self.shape[1] // CELL), -1, np.int64)
        cells[tuple(self.cell.T)] = np.arange(len(self.cell))
        place = cells[row // CELL, column // CELL]
        return place * CELL**2 + (row % CELL) * CELL + column % CELL

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Mask of the cortical pixels of every cell, shape (n_cells, 256)."""
        mask = np.zeros(len(self.cell) * CELL**2, bool)
        mask[self.feature] = True
        return mask.reshape(-1, CELL**2)


def build_flat_grid(template: CortexTemplate) -> FlatGrid:
    """Build the pixel grid of a template's flat map.

    Uses the smallest pixel size, in steps of 0.05 mm, at which the map fits the template's grid.

    Raises
    ------
    FmritokError
        If rows or columns of the grid are not multiples of the cell edge.
    """
    rows, columns = template.grid
    if rows % CELL or columns % CELL or min(rows, columns) <= 0:
        raise FmritokError(
            expected("Grid of template", template.space, f"multiples of {CELL} pixels",
                     template.grid, "Change it in template.yaml.")
        )  # fmt: skip
    faces = [_faces(h) for h in template.hemispheres]
    points = [
        h.flat - h.flat[np.unique(f)].min(axis=0)
        for h, f in zip(template.hemispheres, faces, strict=True)
    ]
    sizes = [p[np.unique(f)].max(axis=0) for p, f in zip(points, faces, strict=True)]
    width, height = sizes[0][0] + _GAP_MM + sizes[1][0], max(sizes[0][1], sizes[1][1])
    pixel_mm = round(float(np.ceil(max(width / columns, height / rows) / 0.05 - 1e-9)) * 0.05, 2)
    points[1] = points[1] + [sizes[0][0] + _GAP_MM, 0]
    for p, size in zip(points, sizes, strict=True):
        # Centre the map, then convert to pixels, with rows counted from the top.
        p += [(columns * pixel_mm - width) / 2, (rows * pixel_mm - size[1]) / 2]
        p /= pixel_mm
        p[:, 1] = rows - p[:, 1]
        p -= 0.5
    found = [_rasterize(p, f, (rows, columns)) for p, f in zip(points, faces, strict=True)]
    found[1] = (found[1][0], found[1][1] + template.n_vertices[0], found[1][2])
    pixel, vertex, weight = (np.concatenate(parts) for parts in zip(*found, strict=True))
    pixel, first = np.unique(pixel, return_index=True)
    occupied = np.zeros((rows // CELL, columns // CELL), bool)
    occupied[pixel // columns // CELL, pixel % columns // CELL] = True
    return FlatGrid(
        (rows, columns), pixel_mm, pixel, vertex[first], weight[first], np.argwhere(occupied)
    )


def _faces(hemisphere: Hemisphere) -> Integers:
    """Return the cortical triangles, without those that bridge a cut."""
    corners = hemisphere.flat[hemisphere.faces]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    kept = hemisphere.cortex[hemisphere.faces].all(axis=1)
    return hemisphere.faces[kept & (edges.max(axis=1) <= _LONGEST_EDGE_MM)]


def _rasterize(
    points: Doubles, faces: Integers, shape: tuple[int, int]
) -> tuple[Integers, Integers, Doubles]:
    """Find the triangle around each pixel centre.

    Parameters
    ----------
    points : np.ndarray of shape (n_vertices, 2)
        Column and row, in pixels. Pixel centres are at whole numbers.
    faces : np.ndarray of shape (n_faces, 3)
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    pixel : np.ndarray of shape (n,), int64
    vertex, weight : np.ndarray of shape (n, 3)
    """
    a, b, c = (points[faces[:, i]] for i in range(3))
    area = _cross(b - a, c - a)
    usual = np.sign(area.sum())
    proper = np.abs(area) > 1e-12
    # In overlaps the first triangle wins: sort flipped triangles to the end.
    order = np.lexsort((np.arange(len(faces)), area * usual < 0))
    order = order[proper[order]]
    owner = np.full(shape[0] * shape[1], -1, np.int64)
    weights = np.zeros((len(owner), 3))
    for start in range(0, len(order), _TRIANGLES_AT_ONCE):
        chosen = order[start : start + _TRIANGLES_AT_ONCE]
        triangle, column, row = _candidates(points[faces], chosen, shape)
        centre = np.stack([column, row], axis=1).astype(np.float64)
        p, q, r = (points[faces[triangle, i]] for i in range(3))
        w = np.stack(
            [_cross(q - centre, r - centre), _cross(r - centre, p - centre),
             _cross(p - centre, q - centre)], axis=1,
        )  # fmt: skip
        w /= area[triangle, None]
        inside = np.flatnonzero((w >= _INSIDE).all(axis=1))
        pixel, first = np.unique(row[inside] * shape[1] + column[inside], return_index=True)
        free = owner[pixel] < 0
        pixel, winner = pixel[free], inside[first[free]]
        owner[pixel] = triangle[winner]
        weights[pixel] = np.clip(w[winner], 0, None)
    valid = np.flatnonzero(owner >= 0)
    weight = weights[valid] / weights[valid].sum(axis=1, keepdims=True)
    return valid, faces[owner[valid]], weight


def _candidates(
    corners: Doubles, chosen: Integers, shape: tuple[int, int]
) -> tuple[Integers, Integers, Integers]:
    """Return all pixels in the bounding boxes of the chosen triangles, triangle by triangle."""
    low = np.ceil(corners[chosen].min(axis=1) - 1e-9).astype(np.int64)
    high = np.floor(corners[chosen].max(axis=1) + 1e-9).astype(np.int64)
    low = np.maximum(low, 0)
    high = np.minimum(high, [shape[1] - 1, shape[0] - 1])
    size = np.maximum(high - low + 1, 0)
    count = size[:, 0] * size[:, 1]
    which = np.repeat(np.arange(len(chosen)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    width = size[which, 0]
    column = low[which, 0] + place % np.maximum(width, 1)
    row = low[which, 1] + place // np.maximum(width, 1)
    return chosen[which], column, row


def _cross(u: Doubles, v: Doubles) -> Doubles:
    return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])
