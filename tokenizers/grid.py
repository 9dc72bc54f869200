"""The canonical volume grid: 96 x 96 x 96 voxels of 2 mm in MNI space."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["AFFINE", "ORIGIN_MM", "SHAPE", "VOXEL_MM", "cell_centres"]

#: Voxels along right, anterior, superior.
SHAPE: Final = (96, 96, 96)
#: Voxel size, mm.
VOXEL_MM: Final = 2.0
#: Centre of voxel (0, 0, 0), mm. It lies on the lattice of the 91x109x91 grid of FSL and HCP: runs
#: on that grid need no interpolation, only flipping, cropping and padding. The grid contains the
#: MNI152 brain mask with a margin on every side.
ORIGIN_MM: Final = (-94.0, -112.0, -90.0)
#: Voxel indices to mm, RAS+.
AFFINE: Final[npt.NDArray[np.float64]] = np.array(
    [
        [VOXEL_MM, 0, 0, ORIGIN_MM[0]],
        [0, VOXEL_MM, 0, ORIGIN_MM[1]],
        [0, 0, VOXEL_MM, ORIGIN_MM[2]],
        [0, 0, 0, 1],
    ]
)
AFFINE.setflags(write=False)


def cell_centres(cells: int) -> npt.NDArray[np.float32]:
    """Return the centres of ``cells x cells x cells`` equal parts of the grid.

    Parameters
    ----------
    cells : int
        Cells along each axis.

    Returns
    -------
    np.ndarray of shape (cells**3, 3), float32
        Millimetres; the first axis varies slowest.
    """
    edge = SHAPE[0] / cells
    middle = (np.arange(cells) + 0.5) * edge - 0.5
    index = np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), axis=-1).reshape(-1, 3)
    return (index * VOXEL_MM + np.array(ORIGIN_MM)).astype(np.float32)
