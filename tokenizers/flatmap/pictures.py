"""Export of flat-map tokens as pictures and as surface files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pictures.brain import draw_flat, flat_image
from fmritok.pictures.style import figure_of, house_style, robust_limit, save
from fmritok.tokenizers.stored import StoredTokens

__all__ = ["flat_images", "save_pictures", "save_surfaces"]

Floats = npt.NDArray[np.float32]

_ROWS_OF_A_PICTURE = 12


def flat_images(stored: StoredTokens) -> Floats:
    """Arrange the tokens of a ``flatmap`` group as images. Needs no template.

    Returns
    -------
    np.ndarray of shape (n_frames, rows, columns), float32
        NaN outside of cortex.
    """
    return flat_image(
        stored.tokens, stored.array("cell"), stored.array("pixel_mask"),
        stored.provenance["layout"]["image"],
    )  # fmt: skip


def save_pictures(
    stored: StoredTokens, path: Path, shading: npt.NDArray[np.float32] | None = None
) -> None:
    """Draw each frame; colours are standard deviations, up to a robust limit.

    Parameters
    ----------
    stored : StoredTokens
    path : Path
        PNG file.
    shading : np.ndarray of shape (rows, columns), float32, optional
        Of :func:`fmritok.tokenizers.flatmap.shading.sulcal_shading`.

    Raises
    ------
    RunError
        If there are too many frames for one picture.
    """
    images = flat_images(stored)
    columns = min(2, len(images))
    rows = -(-len(images) // columns)
    if rows > _ROWS_OF_A_PICTURE:
        raise RunError(
            expected("Frames of run", stored.run_id,
                     f"at most {_ROWS_OF_A_PICTURE * columns} for one picture",
                     len(images), "Choose fewer with --frames.")
        )  # fmt: skip
    limit = robust_limit(images)
    with house_style():
        figure = figure_of(6 * columns, 2.9 * rows + 0.4, f"{stored.run_id}: anterior outwards, "
                           "superior up")  # fmt: skip
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for spare in axes[len(images) :]:
            spare.set_axis_off()
        for frame, (image, place) in enumerate(zip(images, axes, strict=False), stored.first):
            shown = draw_flat(place, image, shading=shading, limit=limit)
            place.set_title(f"frame {frame}, {frame * stored.tr:.1f} s", weight="normal")
        figure.colorbar(shown, ax=list(axes), shrink=0.6, extend="both",
                        label="standard deviations of the vertex")  # fmt: skip
        save(figure, path)


def save_surfaces(vertices: Floats, left: int, tr: float, out: Path) -> list[Path]:
    """Write the time courses of vertices, one file per hemisphere.

    Parameters
    ----------
    vertices : np.ndarray of shape (n_vertices, n_frames)
        Vertices of the left hemisphere first.
    left : int
        Number of vertices of the left hemisphere.
    tr : float
        Seconds between frames.
    out : Path
        ``NAME.func.gii``, written as ``NAME_hemi-L.func.gii`` and ``NAME_hemi-R.func.gii``.
    """
    import nibabel as nib
    from nibabel.gifti.gifti import GiftiDataArray, GiftiMetaData

    written = []
    for hemisphere, values in (("L", vertices[:left]), ("R", vertices[left:])):
        arrays = [
            GiftiDataArray(
                frame.astype(np.float32),
                intent="NIFTI_INTENT_TIME_SERIES",
                datatype="NIFTI_TYPE_FLOAT32",
                meta=GiftiMetaData({"TimeStep": f"{tr * 1000:g}"}),
            )
            for frame in values.T
        ]
        name = out.name.removesuffix(".func.gii")
        path = out.with_name(f"{name}_hemi-{hemisphere}.func.gii")
        nib.save(nib.GiftiImage(darrays=arrays), path)
        written.append(path)
    return written
