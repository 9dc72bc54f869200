"""Label images of atlases: read them, and look up the labels of voxels and grayordinates."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import AtlasError, expected
from fmritok.regular import check_regular
from fmritok.tokenizers.spaces import LEFT, RIGHT, VOXEL, SurfaceSpace, VolumeSpace

__all__ = ["Labels", "dlabel_on", "label_image", "labels_at", "labels_on_grid"]

Labels = npt.NDArray[np.int32]


@lru_cache(maxsize=4)
def label_image(path: Path) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Read a label image as int32 and its affine, from any stored type."""
    import nibabel as nib

    try:
        check_regular(path)
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel raises many kinds
        raise AtlasError(
            expected("Label image", path, "a NIfTI file", f"{type(error).__name__}: {error}",
                     "Check the path, or copy the file again.")
        ) from error  # fmt: skip
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    labels = np.rint(values).astype(np.int32)
    if values.ndim != 3 or np.abs(values - labels).max() > 1e-3:
        raise AtlasError(
            expected("Label image", path, "three dimensions of whole numbers",
                     f"shape {values.shape}" if values.ndim != 3 else "other numbers",
                     "Give a label image, not a probability map or a time series.")
        )  # fmt: skip
    return labels, np.asarray(image.affine, np.float64)


def labels_on_grid(labels: Labels, affine: npt.NDArray[np.float64], space: VolumeSpace) -> Labels:
    """Resample labels to a grid by nearest neighbour."""
    if labels.shape == space.shape and np.allclose(affine, space.affine, atol=1e-4):
        return labels
    ijk = np.indices(space.shape).reshape(3, -1).T
    mm = ijk @ space.affine[:3, :3].T + space.affine[:3, 3]
    return labels_at(labels, affine, mm).reshape(space.shape)


def labels_at(
    labels: Labels, affine: npt.NDArray[np.float64], mm: npt.NDArray[np.float64]
) -> Labels:
    """Return the label of the nearest voxel of positions (n, 3) in mm; 0 outside of the image."""
    inverse = np.linalg.inv(affine)
    # Round halves up, as scipy does with order 0. Halves are frequent on 3 mm grids.
    voxel = np.floor(mm @ inverse[:3, :3].T + inverse[:3, 3] + 0.5 + 1e-9).astype(np.int64)
    inside = ((voxel >= 0) & (voxel < labels.shape)).all(axis=1)
    found = np.zeros(len(mm), np.int32)
    found[inside] = labels[tuple(voxel[inside].T)]
    return found


def dlabel_on(path: Path, space: SurfaceSpace) -> Labels:
    """Read the labels of a ``dlabel.nii`` for the grayordinates of a run."""
    import nibabel as nib

    try:
        check_regular(path)
        image: Any = nib.load(path)
        labels = np.asarray(image.dataobj)[0].astype(np.int32)
        theirs = SurfaceSpace.of_cifti(image.header.get_axis(1))
    except Exception as error:  # nibabel raises many kinds
        raise AtlasError(
            expected("Label file", path, "a CIFTI dlabel", f"{type(error).__name__}: {error}",
                     "Check the path, or copy the file again.")
        ) from error  # fmt: skip
    if theirs.n_vertices != space.n_vertices:
        raise AtlasError(
            expected("Label file", path, f"labels of {space.description}", theirs.description,
                     "Take the atlas in the space of the data.")
        )  # fmt: skip
    found = np.zeros(space.n_samples, np.int32)
    for part in (LEFT, RIGHT):
        column = theirs.columns(part)
        mine = np.flatnonzero(space.part == part)
        at = column[space.vertex[mine]]
        found[mine] = np.where(at >= 0, labels[at], 0)
    mine = np.flatnonzero(space.part == VOXEL)
    known = {
        tuple(mm): label
        for mm, label, part in zip(
            np.round(theirs.mm, 1).tolist(), labels.tolist(), theirs.part.tolist(), strict=True
        )
        if part == VOXEL
    }
    found[mine] = [known.get(tuple(mm), 0) for mm in np.round(space.mm[mine], 1).tolist()]
    return found
