"""Placement of volumes on the canonical grid: flipping, cropping, padding or resampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes, inv_ornt_aff, io_orientation

from fmritok.tokenizers.grid import AFFINE, ORIGIN_MM, SHAPE, VOXEL_MM

__all__ = ["Placement", "not_in_mni"]

#: Corners of the bounding box of the MNI152 brain, reduced by 10 mm. A grid in MNI space contains
#: them. mm.
_BRAIN_MM = np.array([[-62.0, -96.0, -58.0], [62.0, 66.0, 72.0]])
_LATTICE_TOLERANCE = 1e-3


def not_in_mni(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> str:
    """Return why a grid cannot be in MNI space; empty if it can.

    Native grids are oblique, or do not cover the MNI brain. This check catches files in the wrong
    space; it cannot prove the right one. The dataset adapter chooses files in MNI space.

    Parameters
    ----------
    shape : tuple of int
        Shape of the volume; further axes are ignored.
    affine : np.ndarray of shape (4, 4)
        Voxel indices to mm.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.abs(directions).max(axis=0) > 1 - 1e-4).all():
        return "an oblique grid, as in native space"
    corners = apply_affine(affine, [[0, 0, 0], [n - 1 for n in shape[:3]]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    if (low > _BRAIN_MM[0]).any() or (high < _BRAIN_MM[1]).any():
        box = " x ".join(f"{a:.0f}..{b:.0f}" for a, b in zip(low, high, strict=True))
        return f"a field of view of {box} mm, which does not hold the MNI brain"
    return ""


@dataclass(frozen=True)
class Placement:
    """Map from the grid of a file to the canonical grid.

    Attributes
    ----------
    affine : np.ndarray of shape (4, 4)
        Voxel indices of the file to mm.
    shape : tuple of int
        Shape of the file's volumes.
    """

    affine: npt.NDArray[np.float64]
    shape: tuple[int, int, int]

    @property
    def exact(self) -> bool:
        """Whether flipping, cropping and padding suffice."""
        return self._offset is not None

    @property
    def description(self) -> str:
        """Description of the placement for provenance."""
        size = "x".join(str(n) for n in self.shape)
        axes = "".join(str(code) for code in aff2axcodes(self.affine))
        if self.exact:
            return f"exact: {size} {axes} flipped, cropped and padded"
        zooms = "x".join(f"{z:g}" for z in np.linalg.norm(self.affine[:3, :3], axis=0))
        return f"resampled: {size} {axes} at {zooms} mm, trilinear"

    @property
    def _orientation(self) -> npt.NDArray[np.float64]:
        return np.asarray(io_orientation(self.affine))

    @property
    def _offset(self) -> tuple[int, ...] | None:
        """Canonical index of the first voxel in RAS+ order; None if the lattices differ."""
        ras = self.affine @ inv_ornt_aff(self._orientation, self.shape)
        if not np.allclose(ras[:3, :3], np.eye(3) * VOXEL_MM, atol=_LATTICE_TOLERANCE):
            return None
        offset = (ras[:3, 3] - np.array(ORIGIN_MM)) / VOXEL_MM
        whole = np.round(offset)
        if np.abs(offset - whole).max() > _LATTICE_TOLERANCE:
            return None
        return tuple(int(o) for o in whole)

    def place(self, volumes: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Place volumes on the canonical grid. Outside of the file's grid they are 0.

        Parameters
        ----------
        volumes : np.ndarray of shape (n_frames, *shape)

        Returns
        -------
        np.ndarray of shape (n_frames, 96, 96, 96)
            The same dtype if the placement is exact, else float32.
        """
        if not self.exact:
            return self._resample(volumes)
        turned = volumes
        order = self._orientation[:, 0].astype(int)
        for axis, flip in enumerate(self._orientation[:, 1]):
            if flip < 0:
                turned = np.flip(turned, axis + 1)
        turned = turned.transpose(0, *(1 + np.argsort(order)))
        placed = np.zeros((len(volumes), *SHAPE), volumes.dtype)
        source: list[slice] = [slice(None)]
        target: list[slice] = [slice(None)]
        assert self._offset is not None
        for offset, length, size in zip(self._offset, turned.shape[1:], SHAPE, strict=True):
            first, last = max(0, offset), min(size, offset + length)
            target.append(slice(first, max(first, last)))
            source.append(slice(first - offset, max(first, last) - offset))
        placed[tuple(target)] = turned[tuple(source)]
        return placed

    def _resample(self, volumes: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        from scipy.ndimage import affine_transform

        to_source = np.linalg.inv(self.affine) @ AFFINE
        placed = np.empty((len(volumes), *SHAPE), np.float32)
        for volume, out in zip(volumes, placed, strict=True):
            affine_transform(
                volume.astype(np.float32), to_source[:3, :3], to_source[:3, 3],
                output_shape=SHAPE, output=out, order=1, mode="constant", cval=0.0,
            )  # fmt: skip
        return placed
