"""Sources in memory: nibabel images, and arrays of volumes or time courses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.timing import TR_RANGE_S
from fmritok.pipeline.parcels.layout import SeriesLayout
from fmritok.pipeline.parcels.source import is_series
from fmritok.pipeline.sources.opening import RunFiles
from fmritok.tokenizers.spaces import MESHES, SampleSpace, SurfaceSpace

__all__ = ["MemorySource", "check_arguments", "check_real", "check_tr", "files_of",
           "space_of_samples"]  # fmt: skip

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


def check_arguments(source: Any, given: Mapping[str, object]) -> None:
    """Refuse arguments that a source has no use for, such as the mask of grayordinates.

    Parameters
    ----------
    source : path, nibabel image, or np.ndarray
    given : dict
        ``right``, ``warp``, ``mask``, ``affine`` and ``space`` by name; None if not given.

    Raises
    ------
    TypeError
        Naming the first of them.
    """
    kind, used = _kind(source)
    for name, value in given.items():
        if value is not None and name not in used:
            raise TypeError(f"{name} does not apply to {kind}: leave it out")
    space = given.get("space")
    if space is not None and not hasattr(space, "n_samples"):
        raise TypeError(f"space is one of fmritok.tokenizers.spaces, not {space!r}")


def check_tr(tr: object) -> None:
    """Refuse a repetition time that is no number of seconds between frames.

    Raises
    ------
    RunError
    """
    if tr is None:
        return
    low, high = TR_RANGE_S
    is_number = isinstance(tr, Real) and not isinstance(tr, bool)
    if not (is_number and low <= float(tr) <= high):  # type: ignore[arg-type]
        raise RunError(
            expected("Repetition time", "given as tr", f"{low:g} to {high:g} s", repr(tr),
                     "Give the seconds between frames as a number.")
        )  # fmt: skip


def check_real(values: npt.NDArray[Any]) -> None:
    """Refuse an array of complex numbers, whose imaginary parts would be lost.

    Raises
    ------
    RunError
    """
    if np.iscomplexobj(values):
        raise RunError(
            expected("Run", "as an array", "real numbers", values.dtype,
                     "Give the magnitude of the values.")
        )  # fmt: skip


def _kind(source: Any) -> tuple[str, tuple[str, ...]]:
    """Return the kind of a source in words, and the arguments that it has a use for."""
    if isinstance(source, str | PathLike):
        name = Path(source).name
        if name.endswith((".gii", ".gii.gz")):
            return "a GIFTI file", ("right",)
        if name.endswith(".dtseries.nii") or is_series(Path(source)):
            return "a file of time courses", ()
        return "a file of volumes", ("warp", "mask")
    if not hasattr(source, "dataobj"):
        if getattr(source, "ndim", 0) == 2:
            return "an array of time courses", ("space",)
        return "an array of volumes", ("warp", "mask", "affine")
    if hasattr(source.header, "get_axis"):
        return "a CIFTI image", ()
    return "an image of volumes", ("warp", "mask")


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
    n_parcels: int = 0,
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
    n_parcels : int
        Parcels of the tokenizer's atlas, for files of their time courses; 0 if unknown.

    Raises
    ------
    RunError
        If an array has no affine or repetition time, or is not a series of volumes.
    """
    others = (("right", right), ("warp", warp), ("mask", mask))
    more: dict[str, Any] = {name: Path(path) for name, path in others if path is not None}
    if isinstance(source, str | PathLike):
        layout = SeriesLayout(n_parcels).to_text() if is_series(Path(source)) else ""
        yield RunFiles(Path(source), **more, layout=layout)
        return
    import nibabel as nib
    from nibabel.cifti2.cifti2_axes import ParcelsAxis

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if isinstance(source, nib.Cifti2Image):
            is_parcels = isinstance(source.header.get_axis(1), ParcelsAxis)
            path = Path(folder) / f"run.{'p' if is_parcels else 'd'}tseries.nii"
        elif isinstance(source, nib.spatialimages.SpatialImage):
            path = Path(folder) / "run.nii"
        else:
            source = _image_of(np.asarray(source), affine, tr)
            path = Path(folder) / "run.nii"
        nib.save(source, path)
        yield RunFiles(path, **more)


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
    check_real(values)
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
