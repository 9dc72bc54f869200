"""Maps from the samples of a run to the vertices of a template: from volumes and from surfaces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fmritok.errors import RunError, expected
from fmritok.tokenizers.flatmap.cortex import CortexTemplate
from fmritok.tokenizers.sampling import trilinear
from fmritok.tokenizers.spaces import LEFT, RIGHT, SurfaceSpace, VolumeSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["DEPTHS", "ribbon_map", "vertex_map"]

#: Depths at which a volume is sampled, from the white (0) to the pial surface (1).
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: Largest share of cortical vertices that a surface file may lack.
_MISSING_ALLOWED = 0.01


def ribbon_map(space: VolumeSpace, template: CortexTemplate) -> SparseMap:
    """Build the map that averages trilinear samples between white and pial surface."""
    total = None
    for depth in DEPTHS:
        points = np.concatenate(
            [(1 - depth) * h.inner + depth * h.outer for h in template.hemispheres]
        )
        part = trilinear(space, points) / len(DEPTHS)
        total = part if total is None else total + part
    return SparseMap(total)


def vertex_map(space: SurfaceSpace, needed: npt.NDArray[np.int64], *, template: str) -> SparseMap:
    """Build the map that selects a template's vertices among the samples of a surface.

    Parameters
    ----------
    space : SurfaceSpace
        With the mesh of the template.
    needed : np.ndarray of shape (n,), int64
        Vertices that must be there, up to one in a hundred.
    template : str
        Name of the template in errors.

    Raises
    ------
    RunError
        If too many of the needed vertices are missing.
    """
    column = np.concatenate([space.columns(part) for part in (LEFT, RIGHT)])
    missing = needed[column[needed] < 0]
    if len(missing) > _MISSING_ALLOWED * len(needed):
        raise RunError(
            expected("Surface data", f"for template {template}",
                     f"all of its {len(needed)} cortical vertices",
                     f"{len(missing)} of them missing", "Choose the template of the data.")
        )  # fmt: skip
    found = np.flatnonzero(column >= 0)
    entries = (np.ones(len(found)), (found, column[found]))
    return SparseMap(scipy.sparse.coo_array(entries, (len(column), space.n_samples)))
