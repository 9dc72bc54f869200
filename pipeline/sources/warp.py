"""Source of native-space runs, resampled to the canonical grid with an FSL warp field.

A warp field of FSL (``fnirt``, ``convertwarp``; relative or absolute) gives the position in the run
for every voxel of a reference image. Positions are in FSL millimetres: voxel index times voxel
size, counted from the right for neurological images (see FSL's documentation of its coordinates).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.placement import Placement, not_in_mni
from fmritok.pipeline.sources.volume import VolumeSource
from fmritok.pipeline.sources.whole import read_image
from fmritok.tokenizers.grid import AFFINE, SHAPE
from fmritok.tokenizers.sampling import trilinear_at
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["WarpedSource", "source_voxels"]

Doubles = npt.NDArray[np.float64]


class WarpedSource:
    """A native-space run on the canonical grid, resampled trilinearly through its warp.

    Parameters
    ----------
    native : VolumeSource
    warp : Path
        FSL warp field from the run to MNI space.

    Raises
    ------
    RunError
        If the warp is unreadable, or belongs to another run.
    """

    def __init__(self, native: VolumeSource, warp: Path) -> None:
        self.native = native
        self.path = native.path
        self.space = VolumeSpace(SHAPE, AFFINE)
        self.n_frames, self.dtype = native.n_frames, native.dtype
        self.slope, self.intercept = native.slope, native.intercept
        field, affine, transform = _load_field(warp)
        how = f"warped from native space by {warp.name}, placed by its {transform}, trilinear"
        self.description = f"{native.description}, {how}"
        voxels = source_voxels(field, affine, native.space)
        placement = Placement(affine, field.shape[:3])  # type: ignore[arg-type]
        # Interpolate index + 1: a 0 then marks voxels outside of the warp's grid. NaN would spread.
        placed = placement.place(np.moveaxis(voxels + 1, -1, 0)).astype(np.float64)
        within = (placed > 0) & (placed <= np.array(native.space.shape)[:, None, None, None])
        inside = np.asarray(within.all(axis=0))
        if inside.mean() < _LEAST_INSIDE:
            raise RunError(
                expected("Warp field", warp, f"a warp into {native.path.name}, "
                         f"{native.space.description}",
                         f"{inside.mean():.0%} of the MNI grid inside of it",
                         "Give the warp that belongs to the run.")
            )  # fmt: skip
        positions = placed.reshape(3, -1, order="F").T - 1
        self.to_space: SparseMap | None = SparseMap(trilinear_at(native.space.shape, positions))

    @property
    def source_sha256(self) -> str:
        """Hex digest of the run's file."""
        return self.native.source_sha256

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the native file's stored values (n_frames, voxels)."""
        yield from self.native.blocks()


#: Smallest share of the MNI grid that a warp must map into the run.
_LEAST_INSIDE = 0.1


def source_voxels(field: Doubles, affine: Doubles, native: VolumeSpace) -> Doubles:
    """Return the position in the run of every voxel of the warp's reference.

    Parameters
    ----------
    field : np.ndarray of shape (nx, ny, nz, 3)
        Warp field of FSL, relative (displacement, mm) or absolute (position, mm). As in FSL's
        tools, the interpretation with the smaller variance is chosen.
    affine : np.ndarray of shape (4, 4)
        Affine of the reference.
    native : VolumeSpace
        Grid of the run.

    Returns
    -------
    np.ndarray of shape (nx, ny, nz, 3)
        Voxel coordinates in the run.
    """
    ijk = np.stack(np.meshgrid(*map(np.arange, field.shape[:3]), indexing="ij"), axis=-1)
    reference_mm = _fsl_mm(ijk.astype(np.float64), affine, field.shape[:3])
    relative = field.reshape(-1, 3).std(axis=0).sum()
    absolute = (field - reference_mm).reshape(-1, 3).std(axis=0).sum()
    source_mm = field + reference_mm if relative < absolute else field
    sizes = np.linalg.norm(native.affine[:3, :3], axis=0)
    voxels = source_mm / sizes
    if np.linalg.det(native.affine[:3, :3]) > 0:
        voxels[..., 0] = native.shape[0] - 1 - voxels[..., 0]
    return np.asarray(voxels)


def _fsl_mm(ijk: Doubles, affine: Doubles, shape: tuple[int, ...]) -> Doubles:
    ijk = ijk.copy()
    if np.linalg.det(affine[:3, :3]) > 0:
        ijk[..., 0] = shape[0] - 1 - ijk[..., 0]
    return np.asarray(ijk * np.linalg.norm(affine[:3, :3], axis=0))


def _load_field(path: Path) -> tuple[Doubles, Doubles, str]:
    header, field = read_image(path, "warp field")
    if field.ndim != 4 or field.shape[3] != 3 or header.intent in _COEFFICIENTS:
        is_spline = header.intent in _COEFFICIENTS
        raise RunError(
            expected("Warp field", path, "three displacements for every voxel",
                     "spline coefficients" if is_spline else f"shape {field.shape}",
                     "Convert it with FSL's convertwarp.")
        )  # fmt: skip
    affine = header.affine
    elsewhere = not_in_mni(field.shape, affine)
    if elsewhere:
        raise RunError(
            expected("Warp field", path, "a reference in MNI space", elsewhere,
                     "Give the warp from the run to the standard.")
        )  # fmt: skip
    return field, affine, header.transform


#: NIfTI intents of FNIRT's spline coefficients.
_COEFFICIENTS = (2007, 2008, 2009)
