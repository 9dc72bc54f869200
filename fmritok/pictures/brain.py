"""Pictures of brains: flat maps, slices of volumes, parcels; left and right always marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmritok.pictures.style import DIVERGING, GREY, INK, robust_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PLANES", "draw_flat", "draw_parcels", "draw_slice", "flat_image", "mark_sides"]

Floats = npt.NDArray[np.floating[Any]]

#: Slices of the canonical grid: name, index, whether left and right are seen.
PLANES = (
    ("sagittal", np.s_[44, :, :], False),
    ("coronal", np.s_[:, 50, :], True),
    ("axial", np.s_[:, :, 52], True),
)
_VIEWS = (("from above", 0, 1), ("from the front", 0, 2), ("from the side", 1, 2))


def mark_sides(axes: Axes, *, colour: str = INK) -> None:
    """Write L and R at the left and right edge; the left of the picture is left in the brain."""
    for place, side, name in ((0.02, "left", "L"), (0.98, "right", "R")):
        axes.text(place, 0.98, name, transform=axes.transAxes, va="top", ha=side, weight="bold",
                  color=colour)  # fmt: skip


def flat_image(
    tokens: Floats, cells: npt.NDArray[Any], mask: npt.NDArray[np.bool_], image: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Arrange cells of a flat map as images.

    Parameters
    ----------
    tokens : np.ndarray of shape (n_frames, n_cells, edge * edge)
        Pixels of each cell, row by row.
    cells : np.ndarray of shape (n_cells, 2)
        Row and column of each cell.
    mask : np.ndarray of shape (n_cells, edge * edge), bool
        Pixels that are cortex.
    image : sequence of two int
        Rows and columns of the image.

    Returns
    -------
    np.ndarray of shape (n_frames, rows, columns), float32
        NaN outside of cortex.
    """
    rows, columns = image
    edge = round(mask.shape[1] ** 0.5)
    blocks = np.full((len(tokens), rows // edge, columns // edge, edge, edge), np.nan, np.float32)
    known = np.where(mask, tokens, np.nan)
    blocks[:, cells[:, 0], cells[:, 1]] = known.reshape(len(tokens), -1, edge, edge)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(len(tokens), rows, columns)


def draw_flat(
    axes: Axes,
    image: Floats,
    *,
    shading: Floats | None = None,
    limit: float | None = None,
    threshold: float = 0.0,
    colours: str = DIVERGING,
    low: float | None = None,
) -> Any:
    """Draw values on the flat map over sulci, with the border of cortex.

    Parameters
    ----------
    axes : Axes
    image : np.ndarray of shape (rows, columns)
        NaN outside of cortex.
    shading : np.ndarray of shape (rows, columns), optional
        Depth of sulci from 0 (crown of a gyrus) to 1 (fundus); NaN outside of cortex.
    limit : float, optional
        Largest colour. Default: a robust one.
    threshold : float
        Smaller absolute values are transparent, and the sulci are seen.
    colours : str
        Colour map.
    low : float, optional
        Smallest colour. Default: ``-limit``.

    Returns
    -------
    matplotlib.image.AxesImage
        For the bar of colours.
    """
    limit = robust_limit(image) if limit is None else limit
    if shading is not None:
        axes.imshow(0.88 - 0.4 * shading, cmap="gray", vmin=0, vmax=1)
    strength = np.nan_to_num(np.abs(image))
    opaque = np.where(np.isfinite(image) & (strength >= threshold), 1.0, 0.0)
    if shading is not None:
        # what is weak lets the sulci through
        opaque *= 0.35 + 0.55 * np.clip(strength / max(limit, 1e-12), 0, 1)
    shown = axes.imshow(
        np.nan_to_num(image), alpha=opaque, cmap=colours, vmin=-limit if low is None else low,
        vmax=limit,
    )  # fmt: skip
    cortex = np.isfinite(image if shading is None else shading)
    if cortex.any() and not cortex.all():
        axes.contour(cortex.astype(float), levels=[0.5], colors=GREY, linewidths=0.6)
    if shading is not None:
        axes.contour(np.nan_to_num(shading), levels=[0.5], colors=INK, linewidths=0.25, alpha=0.6)
    axes.set_axis_off()
    mark_sides(axes)
    return shown


def draw_slice(
    axes: Axes, volume: Floats, plane: Any, sides: bool, *, colours: str = "gray",
    limits: tuple[float, float] | None = None,
) -> Any:  # fmt: skip
    """Draw a slice of a volume on the canonical grid (RAS+), superior or anterior up.

    Parameters
    ----------
    axes : Axes
    volume : np.ndarray of shape (96, 96, 96)
    plane : tuple
        One of :data:`PLANES`.
    sides : bool
        Whether left and right are seen in it.
    colours : str
    limits : tuple of float, optional
    """
    low, high = limits or (0.0, float(np.nanmax(volume)))
    shown = axes.imshow(volume[plane].T, origin="lower", cmap=colours, vmin=low, vmax=high)
    axes.set_axis_off()
    if sides:
        mark_sides(axes, colour="white" if colours == "gray" else INK)
    return shown


def draw_parcels(
    axes: Any, places: Floats, values: Floats, *, limit: float | None = None,
    colours: str = DIVERGING, low: float | None = None,
) -> Any:  # fmt: skip
    """Draw values of parcels at their centres, from above, from the front and from the side.

    Parameters
    ----------
    axes : sequence of three Axes
    places : np.ndarray of shape (n_parcels, 3)
        mm to the right, anterior, superior.
    values : np.ndarray of shape (n_parcels,)
    limit, low : float, optional
        Of the colours, as in :func:`draw_flat`.
    colours : str
    """
    limit = robust_limit(values) if limit is None else limit
    order = np.argsort(np.abs(values))  # strong ones on top
    centre = (places.max(0) + places.min(0)) / 2
    half = 0.56 * float(np.ptp(places, axis=0).max())  # the same scale in all views
    for one, (view, x, y) in zip(axes, _VIEWS, strict=True):
        shown = one.scatter(
            places[order, x], places[order, y], c=values[order], cmap=colours, s=26,
            vmin=-limit if low is None else low, vmax=limit, edgecolors=GREY, linewidths=0.3,
        )  # fmt: skip
        one.set_title(view, weight="normal")
        one.set(aspect="equal", xlim=(centre[x] - half, centre[x] + half),
                ylim=(centre[y] - half, centre[y] + half))  # fmt: skip
        one.set_axis_off()
        if x == 0:
            mark_sides(one)
    return shown
