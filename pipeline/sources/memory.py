"""Sources in memory: nibabel images, and arrays of volumes or time courses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.opening import RunFiles
from fmritok.tokenizers.spaces import MESHES, SampleSpace, SurfaceSpace

__all__ = ["MemorySource", "files_of", "space_of_samples"]

_FRAMES_A_BLOCK = 64


class MemorySource:
    """The samples of a run as an array; see :class:`fmritok.pipeline.sources.opening.RunSource`.

    Parameters
    ----------
    values : np.ndarray of shape (n_frames, n_samples)
    space : SampleSpace
    """

    slope, intercept = 1.0, 0.0
    to_space = None
    description = ", from an array"
    source_sha256 = ""
    dtype = np.dtype(np.float32)

    def __init__(self, values: npt.NDArray[Any], space: SampleSpace) -> None:
        self._values, self.space = values, space
        self.n_frames = len(values)

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield values (n_frames, n_samples), float32."""
        for first in range(0, self.n_frames, _FRAMES_A_BLOCK):
            yield np.asarray(self._values[first : first + _FRAMES_A_BLOCK], np.float32)


def space_of_samples(n_samples: int) -> SurfaceSpace | None:
    """Return the surface space with this number of samples, left first; None if unknown."""
    half, odd = divmod(n_samples, 2)
    if odd or half not in MESHES:
        return None
    return SurfaceSpace.of_meshes(MESHES[half], (half, half))


@contextmanager
def files_of(
    source: Any,
    *,
    right: str | PathLike[str] | None = None,
    warp: str | PathLike[str] | None = None,
    mask: str | PathLike[str] | None = None,
    affine: npt.ArrayLike | None = None,
    tr: float | None = None,
    scratch: Path | None = None,
) -> Iterator[RunFiles]:
    """Provide the files of a run. Images and arrays are written to a temporary folder.

    Parameters
    ----------
    source : path, nibabel image, or np.ndarray of shape (x, y, z, n_frames)
    right, warp, mask : path, optional
        See :class:`fmritok.pipeline.sources.opening.RunFiles`.
    affine : array of shape (4, 4), optional
        Voxel indices to mm; required for an array.
    tr : float, optional
        Seconds between frames; required for an array.
    scratch : Path, optional
        Folder for the file. Default: the system's temporary folder.

    Raises
    ------
    RunError
        If an array has no affine or repetition time, or is not a series of volumes.
    """
    more = {name: "" if path is None else str(path)
            for name, path in (("right", right), ("warp", warp), ("mask", mask))}  # fmt: skip
    if isinstance(source, str | PathLike):
        yield RunFiles(str(source), **more)
        return
    import nibabel as nib

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if isinstance(source, nib.Cifti2Image):
            path = Path(folder) / "run.dtseries.nii"
        elif isinstance(source, nib.spatialimages.SpatialImage):
            path = Path(folder) / "run.nii"
        else:
            source = _image_of(np.asarray(source), affine, tr)
            path = Path(folder) / "run.nii"
        nib.save(source, path)
        yield RunFiles(str(path), **more)


def _image_of(values: npt.NDArray[Any], affine: npt.ArrayLike | None, tr: float | None) -> Any:
    """Return the image of volumes in MNI space."""
    import nibabel as nib

    missing = [name for name, given in (("affine", affine), ("tr", tr)) if given is None]
    if values.ndim != 4 or missing:
        raise RunError(
            expected("Run", "as an array", "volumes (x, y, z, n_frames) with affine and tr, or "
                     "time courses (n_frames, n_samples) with tr",
                     f"shape {values.shape}" + "".join(f", no {name}" for name in missing),
                     "Give the affine in mm and the repetition time in seconds.")
        )  # fmt: skip
    assert affine is not None
    assert tr is not None
    # float32 holds integers up to 2**24 exactly; NIfTI has no float16 and no booleans
    dtype = values.dtype if values.dtype.kind in "iuf" and values.itemsize in (2, 4) else np.float32
    dtype = np.float32 if values.dtype == np.float16 else dtype
    image = nib.Nifti1Image(values.astype(dtype, copy=False), np.asarray(affine, np.float64))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    image.set_sform(image.affine, "mni")
    image.set_qform(image.affine, "mni")
    return image
