"""Sources of surface runs: CIFTI dense or parcellated series, and pairs of GIFTI files."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.nifti import scaling, value_type
from fmritok.pipeline.headers.surface import raw_cifti_header
from fmritok.pipeline.sources.files import (
    HashedFile,
    check_claim,
    check_room,
    damage_named,
    open_binary,
)
from fmritok.pipeline.sources.gifti import parse_gifti
from fmritok.pipeline.sources.whole import skip
from fmritok.quantities import counted
from fmritok.tokenizers.spaces import MESHES, ParcelSpace, SurfaceSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["CiftiSource", "GiftiSource"]

_FRAMES_A_BLOCK = 64
_NIFTI2_HEADER = 544  # with the four bytes that announce extensions
_CIFTI_EXTENSION = 32
_MM_EXPONENT = -3


class _LoadedSource(ABC):
    """A run loaded to memory as a whole: its files store time courses sample by sample."""

    slope, intercept = 1.0, 0.0
    description = ""
    to_space: SparseMap | None = None
    space: SurfaceSpace | ParcelSpace
    n_frames: int
    source_sha256: str
    dtype = np.dtype(np.float32)

    @abstractmethod
    def _series(self) -> npt.NDArray[np.float32]:
        """Read the values (n_samples, n_frames)."""

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield values (n_frames, n_samples), float32.

        Raises
        ------
        RunError
            If a file is cut off or damaged.
        """
        series = self._series()
        for first in range(0, self.n_frames, _FRAMES_A_BLOCK):
            yield series[:, first : first + _FRAMES_A_BLOCK].T


class CiftiSource(_LoadedSource):
    """The grayordinates of one ``dtseries.nii``, or the parcels of one ``ptseries.nii``.

    Parameters
    ----------
    path : Path
        Possibly inside a zip file.

    Raises
    ------
    RunError
        If it is not a dense or parcellated time series, or damaged.
    """

    def __init__(self, path: Path) -> None:
        import nibabel as nib

        self.path = path
        self.source_sha256 = ""
        with damage_named(path, "a CIFTI-2 time series"), open_binary(path) as raw:
            self._header = raw_cifti_header(HashedFile(raw, path).read(_NIFTI2_HEADER - 4), path)
        self._stored = value_type(self._header, path)
        self._slope, self._intercept = scaling(self._header, path)
        with damage_named(path, "a CIFTI-2 time series"), open_binary(path) as raw:
            file = HashedFile(raw, path)
            offset = int(self._header["vox_offset"])
            check_room(path, offset, "bytes of header")
            extensions = file.read(offset)[_NIFTI2_HEADER:]
        try:
            matrix = nib.cifti2.parse_cifti2.Cifti2Parser()
            matrix.parse(string=_cifti_xml(extensions))
            axes: Any = matrix.header
            self.space = _space_of(axes)
            self.n_frames = len(axes.get_axis(0))
        except (ExpatError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
            raise RunError(
                expected("Run file", path, "a CIFTI-2 time series (dtseries.nii, ptseries.nii)",
                         f"{type(error).__name__}: {error}", "Check the file, or copy it again.")
            ) from error  # fmt: skip
        shape = tuple(int(n) for n in self._header["dim"][5:7])
        if shape != (self.n_frames, self.space.n_samples):
            raise RunError(
                expected("Run file", path, f"a matrix of {counted(self.n_frames, 'frame')} and "
                         f"{counted(self.space.n_samples, 'sample')}, as its XML says", shape,
                         "Write it again.")
            )  # fmt: skip

    def _series(self) -> npt.NDArray[np.float32]:
        dtype = self._stored
        shape = (self.space.n_samples, self.n_frames)
        size = shape[0] * shape[1] * dtype.itemsize
        wanted = f"{counted(size, 'byte')} of {counted(self.n_frames, 'frame')}"
        check_claim(self.path, size)
        check_room(self.path, 2 * size, "values")
        with damage_named(self.path, wanted), open_binary(self.path) as raw:
            file = HashedFile(raw, self.path)
            skip(file, int(self._header["vox_offset"]))
            data = file.read(size)
            if len(data) < size:
                raise EOFError(f"the file ends after {len(data):,} of them")
            file.finish()
            self.source_sha256 = file.sha256
        values = np.frombuffer(data, dtype).reshape(shape)
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused
            if self._slope == 1 and not self._intercept:
                return values.astype(np.float32, copy=False)
            scaled = values * np.float32(self._slope) + np.float32(self._intercept)
            return scaled.astype(np.float32)


class GiftiSource(_LoadedSource):
    """The vertices of a left and a right ``func.gii``.

    Parameters
    ----------
    left, right : Path

    Raises
    ------
    RunError
        If a file is damaged, or the hemispheres differ in length.
    """

    def __init__(self, left: Path, right: Path) -> None:
        self.left, self.right = left, right
        loaded = [_load_gifti(path) for path in (left, right)]
        frames = [len(values) for values, _ in loaded]
        if frames[0] != frames[1]:
            raise RunError(
                expected("GIFTI pair", f"{left.name} and {right.name}", "the same number of frames",
                         f"{frames[0]} left and {frames[1]} right", "Copy the shorter one again.")
            )  # fmt: skip
        self._values = [values for values, _ in loaded]
        self.n_frames = frames[0]
        vertices = (self._values[0].shape[1], self._values[1].shape[1])
        self.space = SurfaceSpace.of_meshes(_name_of_mesh(vertices[0]), vertices)
        self.source_sha256 = hashlib.sha256("".join(d for _, d in loaded).encode()).hexdigest()

    def _series(self) -> npt.NDArray[np.float32]:
        return np.concatenate([values.T for values in self._values])


def _load_gifti(path: Path) -> tuple[npt.NDArray[np.float32], str]:
    """Return the values, shape (n_frames, n_vertices), and the digest of the stored bytes."""
    with damage_named(path, "a GIFTI time series"), open_binary(path) as raw:
        file = HashedFile(raw, path)
        parts: list[bytes] = []
        while part := file.read(1 << 24):
            parts.append(part)
            check_room(path, 3 * len(parts) * len(part), "values")
        file.finish()
    try:
        image: Any = parse_gifti(b"".join(parts), path)
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused
            arrays = [_real(array.data) for array in image.darrays]
    except RunError:
        raise
    except Exception as error:  # nibabel raises its own errors and those of expat and zlib
        raise RunError(
            expected("Run file", path, "a whole GIFTI file", f"{type(error).__name__}: {error}",
                     "Copy or download it again, then rerun the same command.")
        ) from error  # fmt: skip
    if len(arrays) == 1 and arrays[0].ndim == 2:  # one array of vertices by frames
        arrays = list(arrays[0].T)
    if not arrays or any(a.ndim != 1 or a.shape != arrays[0].shape for a in arrays):
        raise RunError(
            expected("Run file", path, "one value per vertex and frame",
                     f"{len(arrays)} arrays of shapes {sorted({a.shape for a in arrays})[:3]}",
                     "Give a func.gii time series.")
        )  # fmt: skip
    return np.stack(arrays), file.sha256


def _real(values: Any) -> npt.NDArray[np.float32]:
    if np.asarray(values).dtype.kind not in "iuf":
        raise TypeError("values that are not real numbers")
    return np.asarray(values, np.float32)


def _name_of_mesh(n_vertices: int) -> str:
    return MESHES.get(n_vertices, f"{n_vertices} vertices")


def _space_of(axes: Any) -> SurfaceSpace | ParcelSpace:
    """Return the space of the spatial axis of a CIFTI file."""
    from nibabel.cifti2.cifti2_axes import ParcelsAxis

    spatial = axes.get_axis(1)
    if isinstance(spatial, ParcelsAxis):
        return ParcelSpace(len(spatial), tuple(str(name) for name in spatial.name))
    return SurfaceSpace.of_cifti(_in_mm(axes))


def _in_mm(axes: Any) -> Any:
    """Return the spatial axis of a CIFTI file with voxels in mm: nibabel ignores the unit."""
    models = axes.get_axis(1)
    volume = axes.matrix.get_index_map(1).volume
    if volume is not None and models.affine is not None:
        exponent = volume.transformation_matrix_voxel_indices_ijk_to_xyz.meter_exponent
        if exponent not in (None, _MM_EXPONENT):
            factor = 10.0 ** (int(exponent) - _MM_EXPONENT)
            models.affine = np.diag([factor, factor, factor, 1.0]) @ models.affine
    return models


def _cifti_xml(extensions: bytes) -> bytes:
    """Return the CIFTI XML from the extensions of a NIfTI header."""
    place = 0
    while place + 8 <= len(extensions):
        size = int.from_bytes(extensions[place : place + 4], "little")
        code = int.from_bytes(extensions[place + 4 : place + 8], "little")
        if code == _CIFTI_EXTENSION:
            return extensions[place + 8 : place + size].rstrip(b"\0")
        place += max(size, 8)
    raise ValueError("no CIFTI extension in the header")
