"""Export of flat-map tokens as pictures and as surface files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
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
    layout: dict[str, Any] = stored.provenance["layout"]
    edge, (rows, columns) = int(layout["patch"]), layout["image"]
    cells, mask, tokens = stored.array("cell"), stored.array("pixel_mask"), stored.tokens
    blocks = np.full((len(tokens), rows // edge, columns // edge, edge, edge), np.nan, np.float32)
    known = np.where(mask, tokens, np.nan)
    blocks[:, cells[:, 0], cells[:, 1]] = known.reshape(len(tokens), -1, edge, edge)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(len(tokens), rows, columns)


def save_pictures(stored: StoredTokens, path: Path) -> None:
    """Draw each frame; colours are standard deviations.

    Raises
    ------
    RunError
        If there are too many frames for one picture.
    """
    from matplotlib.figure import Figure

    images = flat_images(stored)
    columns = min(2, len(images))
    rows = -(-len(images) // columns)
    if rows > _ROWS_OF_A_PICTURE:
        raise RunError(
            expected("Frames of run", stored.run_id,
                     f"at most {_ROWS_OF_A_PICTURE * columns} for one picture",
                     len(images), "Choose fewer with --frames.")
        )  # fmt: skip
    figure = Figure(figsize=(6 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.axis("off")
    for frame, (image, place) in enumerate(zip(images, axes, strict=False), stored.first):
        shown = place.imshow(image, cmap="RdBu_r", vmin=-3, vmax=3, interpolation="nearest")
        place.set_title(f"frame {frame}, {frame * stored.tr:.1f} s", fontsize=9)
        place.text(0.02, 0.98, "L", transform=place.transAxes, va="top")
        place.text(0.98, 0.98, "R", transform=place.transAxes, va="top", ha="right")
    figure.colorbar(shown, ax=list(axes), shrink=0.5, label="standard deviations of the vertex")
    figure.suptitle(f"{stored.run_id}: anterior outwards, superior up", fontsize=10)
    figure.savefig(path, dpi=110)


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
