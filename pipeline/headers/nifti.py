"""NIfTI headers: checked shape, data type, affine, scaling and repetition time of a volume file.

Extensions are skipped: the data begin at ``vox_offset``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from fmritok.pipeline.headers.first_bytes import FileStart, raw_header, refusal
from fmritok.pipeline.headers.transforms import chosen_transform
from fmritok.quantities import counted

__all__ = ["VolumeHeader", "parse_volume_header", "scaling", "value_type"]

_CIFTI_INTENTS = range(3000, 3100)
#: Seconds per unit, by NIfTI's code of the unit of time; 0 is "unknown".
_SECONDS = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}
_NOT_TIME = (32, 40, 48)  # Hz, ppm, rad/s
_UNITS = 0x3F  # the bits of xyzt_units that NIfTI uses


@dataclass(frozen=True)
class VolumeHeader:
    """Checked header of a NIfTI file.

    Attributes
    ----------
    shape : tuple of int
        Three axes of space, then the frames if there is more than one volume. Further axes of
        length 1 are dropped.
    affine : np.ndarray of shape (4, 4)
        Voxel indices to mm.
    tr : float
        Repetition time, s; NaN if the header has none.
    dtype : np.dtype
    offset : int
        Bytes before the first voxel.
    slope, intercept : float
        ``value = slope * stored + intercept``.
    transform : str
        Origin and space of the affine, such as ``sform (MNI)``.
    questions : tuple of str
        Doubts about the header.
    intent : int
        NIfTI intent code.
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    tr: float
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    transform: str = ""
    questions: tuple[str, ...] = ()
    intent: int = 0

    @property
    def n_frames(self) -> int:
        """Number of frames of a 4D file."""
        return self.shape[3] if len(self.shape) == 4 else 1


def parse_volume_header(start: FileStart, path: Path) -> VolumeHeader:
    """Parse a NIfTI header, and check that its values are plausible.

    Raises
    ------
    RunError
    """
    with np.errstate(all="ignore"):  # signalling NaN; the fields are checked below
        return _parsed(raw_header(start.content, path), start.size, path)


def _parsed(header: Any, size: int | None, path: Path) -> VolumeHeader:
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        raise refusal(
            path, "volumes", "a CIFTI file", "Name it .dtseries.nii, and use --input surface."
        )
    shape = _shape(header, path)
    dtype = value_type(header, path)
    offset = _offset(header, size, path)
    questions = []
    if int(header["bitpix"]) not in (0, 8 * dtype.itemsize):
        questions.append("the header's bitpix does not fit its datatype: the datatype is used")
    transform = chosen_transform(header, shape[:3], path)
    slope, intercept = scaling(header, path)
    if slope < 0:
        questions.append("the header's slope (scl_slope) is negative: values are inverted")
    tr, more = _repetition_time(header)
    if size is not None:
        _check_size(size, offset, shape, dtype, path)
    return VolumeHeader(
        shape=shape,
        affine=transform.affine,
        tr=tr,
        dtype=dtype,
        offset=offset,
        slope=slope,
        intercept=intercept,
        transform=transform.name,
        questions=(*questions, *transform.questions, *more),
        intent=int(header["intent_code"]),
    )


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    """Return the lengths of the axes, without axes of length 1 after the third."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise refusal(path, "a number of axes (dim[0]) of 1 to 7", dim[0])
    shape = tuple(dim[1 : dim[0] + 1])
    if len(shape) < 3 or min(shape) < 1:
        raise refusal(path, "three axes of at least one voxel each", f"shape {shape}")
    return (*shape[:3], *(n for n in shape[3:] if n > 1)) if len(shape) > 4 else shape


def value_type(header: Any, path: Path) -> np.dtype[Any]:
    """Return the data type of the stored values.

    Raises
    ------
    RunError
        If the type is unknown, complex, a colour, or larger than 64 bits.
    """
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (KeyError, nib.spatialimages.HeaderDataError):
        raise refusal(path, "a datatype that NIfTI knows", int(header["datatype"])) from None
    if dtype.kind == "c":
        raise refusal(path, "real intensities", "complex ones", "Give the magnitude of the image.")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        what = "colours" if dtype.fields else f"datatype {int(header['datatype'])}"
        raise refusal(
            path, "integers or floats of at most 64 bits", what, "Convert the image to float32."
        )
    return dtype


def _offset(header: Any, size: int | None, path: Path) -> int:
    stored, least = float(header["vox_offset"]), int(header.single_vox_offset)
    if stored == 0:
        return least
    if not (math.isfinite(stored) and stored >= least and stored == int(stored)):
        raise refusal(path, f"data from byte {least} or later (vox_offset)", f"{stored:g}")
    if size is not None and stored > size:
        raise refusal(
            path, f"data within its {counted(size, 'byte')}", f"a vox_offset of {stored:.0f}"
        )
    return int(stored)


def scaling(header: Any, path: Path) -> tuple[float, float]:
    """Return slope and intercept of a header: ``value = slope * stored + intercept``.

    Raises
    ------
    RunError
        If one is NaN or infinite.
    """
    try:
        slope, intercept = header.get_slope_inter()
    except nib.spatialimages.HeaderDataError:
        raise refusal(
            path, "an intercept (scl_inter) that is a number", f"{float(header['scl_inter'])}"
        ) from None
    if math.isinf(float(header["scl_slope"])):
        raise refusal(path, "a slope (scl_slope) that is a number", "inf")
    return (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)


def _repetition_time(header: Any) -> tuple[float, list[str]]:
    questions = []
    units = int(header["xyzt_units"])
    code = units & 0x38
    stored = float(header["pixdim"][4]) if int(header["dim"][0]) > 3 else math.nan
    if code in _NOT_TIME:
        questions.append("the header's fourth axis is not in units of time: no repetition time")
    elif code not in _SECONDS or units & ~_UNITS:
        questions.append("the header's unit of time is not defined by NIfTI: taken for seconds")
    if float(header["toffset"]) != 0:
        questions.append(
            "the header has its first frame at another time than 0 (toffset): events "
            "are taken to count from the first frame"
        )
    if code in _NOT_TIME or not (math.isfinite(stored) and stored > 0):
        return math.nan, questions
    return round(stored * _SECONDS.get(code, 1.0), 6), questions


def _check_size(
    size: int, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path
) -> None:
    """Compare the header with the size of an uncompressed file."""
    volume = math.prod(shape[:3]) * dtype.itemsize
    wanted = math.prod(shape) * dtype.itemsize
    if not wanted <= size - offset < wanted + volume:
        raise refusal(
            path,
            counted(wanted // volume, "whole frame"),
            f"{(size - offset) // volume} in its {counted(size, 'byte')}",
        )
