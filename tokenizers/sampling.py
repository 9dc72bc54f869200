"""Trilinear interpolation of volumes at points, as sparse matrices."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fmritok.tokenizers.spaces import VolumeSpace

__all__ = ["trilinear", "trilinear_at"]


def trilinear(space: VolumeSpace, points_mm: npt.NDArray[np.float64]) -> scipy.sparse.csr_array:
    """Return the matrix of trilinear interpolation at points.

    Parameters
    ----------
    space : VolumeSpace
    points_mm : np.ndarray of shape (n_points, 3), float64
        mm.

    Returns
    -------
    scipy.sparse.csr_array of shape (n_points, n_samples)
        Rows sum to 1 inside the grid, to less at its rim, and to 0 outside.
    """
    inverse = np.linalg.inv(space.affine)
    return trilinear_at(space.shape, points_mm @ inverse[:3, :3].T + inverse[:3, 3])


def trilinear_at(
    grid: tuple[int, int, int], position: npt.NDArray[np.float64]
) -> scipy.sparse.csr_array:
    """Return the matrix of trilinear interpolation at voxel positions; see :func:`trilinear`."""
    base = np.floor(position).astype(np.int64)
    share = position - base
    shape = np.array(grid)
    strides = np.array([1, shape[0], shape[0] * shape[1]])
    rows, columns, weights = [], [], []
    for corner in product((0, 1), repeat=3):
        voxel = base + corner
        weight = np.where(corner, share, 1 - share).prod(axis=1)
        inside = ((voxel >= 0) & (voxel < shape)).all(axis=1) & (weight > 0)
        rows.append(np.flatnonzero(inside))
        columns.append(voxel[inside] @ strides)
        weights.append(weight[inside])
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return scipy.sparse.csr_array(
        scipy.sparse.coo_array(entries, (len(position), int(shape.prod())))
    )
