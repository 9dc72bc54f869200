"""Sample spaces: voxels of a grid, or vertices of cortical surfaces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEFT", "MESHES", "RIGHT", "VOXEL", "SampleSpace", "SurfaceSpace", "VolumeSpace"]

#: Part of a sample of a :class:`SurfaceSpace`: left or right hemisphere, or subcortical voxel.
LEFT, RIGHT, VOXEL = 0, 1, -1


@dataclass(frozen=True, eq=False)
class VolumeSpace:
    """Voxels of a regular grid in MNI space, first axis fastest, as in NIfTI files.

    Attributes
    ----------
    shape : tuple of int
    affine : np.ndarray of shape (4, 4)
        Voxel indices to mm.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    is_volume = True

    @property
    def n_samples(self) -> int:
        """Voxels of a frame."""
        return int(np.prod(self.shape))

    @property
    def description(self) -> str:
        """Description of the grid for messages."""
        zooms = "x".join(f"{z:g}" for z in np.linalg.norm(self.affine[:3, :3], axis=0))
        return f"volumes of {'x'.join(map(str, self.shape))} voxels of {zooms} mm"

    @cached_property
    def key(self) -> str:
        """Digest that is equal for equal spaces."""
        return _digest(np.array(self.shape, np.int64), self.affine.astype(np.float64))


@dataclass(frozen=True, eq=False)
class SurfaceSpace:
    """Vertices of both hemispheres and optionally subcortical voxels, in any order.

    Attributes
    ----------
    template : str
        ``fsLR``, ``fsaverage5``, ...
    n_vertices : tuple of int
        Size of the left and right mesh.
    part : np.ndarray of shape (n_samples,), int8
        :data:`LEFT`, :data:`RIGHT` or :data:`VOXEL`.
    vertex : np.ndarray of shape (n_samples,), int32
        Index of the vertex in its mesh; -1 for voxels.
    mm : np.ndarray of shape (n_samples, 3), float32
        Centre of each voxel, mm; NaN for vertices.
    """

    template: str
    n_vertices: tuple[int, int]
    part: npt.NDArray[np.int8]
    vertex: npt.NDArray[np.int32]
    mm: npt.NDArray[np.float32]

    is_volume = False

    @classmethod
    def of_meshes(cls, template: str, n_vertices: tuple[int, int]) -> SurfaceSpace:
        """Return the space of all vertices of two meshes, left first."""
        left, right = n_vertices
        part = np.repeat(np.array([LEFT, RIGHT], np.int8), n_vertices)
        vertex = np.concatenate([np.arange(left), np.arange(right)]).astype(np.int32)
        mm = np.full((left + right, 3), np.nan, np.float32)
        return cls(template, n_vertices, part, vertex, mm)

    @classmethod
    def of_cifti(cls, axis: Any) -> SurfaceSpace:
        """Return the space of a nibabel ``BrainModelAxis``."""
        part = np.full(len(axis), VOXEL, np.int8)
        sizes = []
        for code, hemisphere in ((LEFT, "LEFT"), (RIGHT, "RIGHT")):
            name = f"CIFTI_STRUCTURE_CORTEX_{hemisphere}"
            part[axis.name == name] = code
            sizes.append(int(axis.nvertices.get(name, 0)))
        vertex = np.where(part == VOXEL, -1, axis.vertex).astype(np.int32)
        mm = np.full((len(axis), 3), np.nan, np.float32)
        if axis.affine is not None:
            inside = part == VOXEL
            mm[inside] = axis.voxel[inside] @ axis.affine[:3, :3].T + axis.affine[:3, 3]
        template = MESHES.get(max(sizes), f"{max(sizes)} vertices")
        return cls(template, (sizes[0], sizes[1]), part, vertex, mm)

    @property
    def n_samples(self) -> int:
        """Vertices and voxels of a frame."""
        return len(self.part)

    @property
    def description(self) -> str:
        """Description of the samples for messages."""
        voxels = int((self.part == VOXEL).sum())
        more = f" and {voxels} voxels" if voxels else ""
        return f"surfaces of {self.n_samples - voxels} {self.template} vertices{more}"

    @cached_property
    def key(self) -> str:
        """Digest that is equal for equal spaces."""
        meshes = np.array(self.n_vertices, np.int64)
        return _digest(meshes, self.part, self.vertex, self.mm)

    def columns(self, part: int) -> npt.NDArray[np.int64]:
        """Return the sample index of each vertex of a hemisphere; -1 for vertices without one."""
        found = np.full(self.n_vertices[part], -1, np.int64)
        chosen = np.flatnonzero(self.part == part)
        found[self.vertex[chosen]] = chosen
        return found


SampleSpace = VolumeSpace | SurfaceSpace

#: Template by its number of vertices per hemisphere.
MESHES = {32492: "fsLR", 59292: "fsLR-59k", 163842: "fsaverage", 40962: "fsaverage6",
              10242: "fsaverage5", 2562: "fsaverage4"}  # fmt: skip


def _digest(*arrays: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
