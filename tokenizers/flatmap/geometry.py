"""Where the flat hemispheres lie on the pixel grid of a flat map.

By default each hemisphere has its own origin: the map is centred, with the largest pixels that are
needed for it to fit. CortexMAE (Lane et al., arXiv 2510.13768) fixes all of it: pixels of 1.2 mm, a
gap of 16 mm, and a box in the millimetres of the flat surfaces, whose height is common to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import FmritokError, expected

__all__ = ["PUBLISHED", "Geometry", "read_geometry"]

Doubles = npt.NDArray[np.float64]
#: Sizes of pixels that are tried are multiples of this, mm.
_STEP_MM = 0.05


@dataclass(frozen=True)
class Geometry:
    """Pixel size, gap and box of a flat map.

    Attributes
    ----------
    pixel_mm : float, optional
        Edge of a pixel. Default: the smallest multiple of 0.05 mm at which the map fits.
    gap_mm : float
        Between the hemispheres.
    box : tuple of float, optional
        Left, right, bottom and top, mm. The first pixel has its centre at the left and the top.
        Vertical positions are those of the surfaces; the middle of the gap is at 0. Default:
        the map is centred, each hemisphere by its own lowest point.
    """

    pixel_mm: float | None = None
    gap_mm: float = 8.0
    box: tuple[float, float, float, float] | None = None

    def place(
        self,
        hemispheres: tuple[Doubles, Doubles],
        used: tuple[Doubles, Doubles],
        grid: tuple[int, int],
    ) -> tuple[list[Doubles], float]:
        """Convert flat positions to columns and rows.

        Parameters
        ----------
        hemispheres : pair of np.ndarray of shape (n_vertices, 2)
            Flat positions of all vertices, mm.
        used : pair of np.ndarray of shape (n_used, 2)
            Those of the vertices in triangles.
        grid : tuple of int
            Rows and columns.

        Returns
        -------
        points : list of np.ndarray of shape (n_vertices, 2)
            Column and row. Pixel centres are at whole numbers.
        pixel_mm : float

        Raises
        ------
        FmritokError
            If the map does not fit.
        """
        if self.box is not None and self.pixel_mm is not None:
            return self._in_box(hemispheres, used, grid, self.box, self.pixel_mm), self.pixel_mm
        return self._centred(hemispheres, used, grid)

    def _in_box(
        self,
        hemispheres: tuple[Doubles, Doubles],
        used: tuple[Doubles, Doubles],
        grid: tuple[int, int],
        box: tuple[float, float, float, float],
        pixel_mm: float,
    ) -> list[Doubles]:
        left, right = hemispheres
        inner = -self.gap_mm / 2 - left[:, 0].max(), self.gap_mm / 2 - right[:, 0].min()
        found, outside = [], 0
        for points, own, shift in zip(hemispheres, used, inner, strict=True):
            column = (points[:, 0] + shift - box[0]) / pixel_mm
            row = (box[3] - points[:, 1]) / pixel_mm
            found.append(np.stack([column, row], axis=1))
            x, y = own[:, 0] + shift, own[:, 1]
            outside += int(((x < box[0]) | (x > box[1]) | (y < box[2]) | (y > box[3])).sum())
        if outside:
            raise FmritokError(
                expected("Box of template", list(box), "all vertices of the flat map in it",
                         f"{outside} outside", "Change it in template.yaml.")
            )  # fmt: skip
        return found

    def _centred(
        self,
        hemispheres: tuple[Doubles, Doubles],
        used: tuple[Doubles, Doubles],
        grid: tuple[int, int],
    ) -> tuple[list[Doubles], float]:
        rows, columns = grid
        points = [h - own.min(axis=0) for h, own in zip(hemispheres, used, strict=True)]
        sizes = [own.max(axis=0) - own.min(axis=0) for own in used]
        width, height = sizes[0][0] + self.gap_mm + sizes[1][0], max(sizes[0][1], sizes[1][1])
        steps = np.ceil(max(width / columns, height / rows) / _STEP_MM - 1e-9)
        needed = round(float(steps) * _STEP_MM, 2)
        pixel_mm = self.pixel_mm or needed
        if pixel_mm < needed:
            raise FmritokError(
                expected("pixel_mm of template", pixel_mm, f"{needed} or more, for the map to fit "
                         f"into {rows} x {columns} pixels", pixel_mm, "Change it in template.yaml.")
            )  # fmt: skip
        points[1] = points[1] + [sizes[0][0] + self.gap_mm, 0]
        for p, size in zip(points, sizes, strict=True):
            # Centre the map, then convert to pixels, with rows counted from the top.
            p += [(columns * pixel_mm - width) / 2, (rows * pixel_mm - size[1]) / 2]
            p /= pixel_mm
            p[:, 1] = rows - p[:, 1]
            p -= 0.5
        return points, pixel_mm


#: Of CortexMAE, for a grid of 224 x 560 pixels.
PUBLISHED = Geometry(1.2, 16.0, (-336.0, 336.0, -122.8, 146.0))


def read_geometry(tree: Mapping[str, Any]) -> Geometry:
    """Read the geometry of a ``template.yaml``.

    Raises
    ------
    ValueError
        If a value is no number, or not positive, or the box does not fit the grid.
    """
    pixel_mm = tree.get("pixel_mm")
    pixel_mm = None if pixel_mm is None else float(pixel_mm)
    gap_mm = float(tree.get("gap_mm", Geometry.gap_mm))
    if gap_mm < 0 or (pixel_mm is not None and not 0 < pixel_mm < 100):
        raise ValueError("pixel_mm must be positive, gap_mm at least 0")
    if tree.get("box") is None:
        return Geometry(pixel_mm, gap_mm)
    left, right, bottom, top = (float(value) for value in tree["box"])
    if pixel_mm is None:
        raise ValueError("a box needs pixel_mm")
    wanted = (round((top - bottom) / pixel_mm, 6), round((right - left) / pixel_mm, 6))
    if wanted != (int(tree["grid"][0]), int(tree["grid"][1])):
        raise ValueError(f"the box has {wanted[0]:g} x {wanted[1]:g} pixels of {pixel_mm:g} mm")
    return Geometry(pixel_mm, gap_mm, (left, right, bottom, top))
