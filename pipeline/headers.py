"""Read the headers of runs in milliseconds, and say what in them cannot belong to a run."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import RunError, expected
from fmritok.pipeline.faults import told_apart
from fmritok.pipeline.placement import not_in_mni
from fmritok.pipeline.sources.files import open_binary, read_fully

__all__ = ["VolumeHeader", "header_problem", "read_header", "run_header"]

#: Repetition times outside of this are a mistake of the header, s.
TR_RANGE_S = (0.1, 20.0)
#: More than any scanner makes: a damaged header, or one that was made up.
_MOST_FRAMES, _MOST_VOXELS = 2**20, 2**28
#: Bytes that the extensions of a CIFTI file may take.
_MOST_EXTENSIONS = 2**26
#: What damaged files and archives raise.
_DAMAGE = (OSError, EOFError, zlib.error)
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True)
class VolumeHeader:
    """What the header of a NIfTI file says.

    Attributes
    ----------
    shape : tuple of int
    affine : np.ndarray of shape (4, 4)
        Voxel indices to mm.
    tr : float
        Repetition time, s; NaN if the header has none.
    dtype : np.dtype
    offset : int
        Bytes before the first voxel.
    slope, intercept : float
        ``value = slope * stored + intercept``.
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    tr: float
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def n_frames(self) -> int:
        """Frames of a 4D file."""
        return self.shape[3] if len(self.shape) == 4 else 1


def read_header(path: Path) -> VolumeHeader:
    """Read a NIfTI header, compressed or not, without reading the data.

    Raises
    ------
    RunError
        If there is no readable NIfTI header.
    """
    try:
        start = _first_bytes(path, 540)
        size = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
        kind = nib.Nifti2Header if 540 in size else nib.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(start))  # type: ignore[no-untyped-call]
    except (*_DAMAGE, nib.spatialimages.HeaderDataError,
            nib.wrapstruct.WrapStructError) as error:  # fmt: skip
        raise RunError(
            expected("File", path, "a readable NIfTI header", f"{type(error).__name__}: {error}",
                     "Copy the file again from its source.")
        ) from error  # fmt: skip
    slope, intercept = header.get_slope_inter()
    shape = tuple(int(n) for n in header.get_data_shape())
    zooms = header.get_zooms()
    unit = _SECONDS.get(header.get_xyzt_units()[1], 1.0)
    tr = round(float(zooms[3]) * unit, 6) if len(zooms) > 3 and zooms[3] > 0 else float("nan")
    return VolumeHeader(
        shape=shape,
        affine=np.asarray(header.get_best_affine(), np.float64),
        tr=tr,
        dtype=header.get_data_dtype(),
        offset=int(header["vox_offset"]) or 352,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
    )


def run_header(
    path: Path, right: Path | None = None, *, tr: float = float("nan"), native_ok: bool = False
) -> tuple[int, float, str]:
    """Read what the catalogue needs of one run; data are not read, except of GIFTI files.

    Parameters
    ----------
    path : Path
        NIfTI volumes, a CIFTI ``dtseries.nii`` or the left ``func.gii``; may lie in a zip file.
    right : Path, optional
        The right ``func.gii``.
    tr : float
        Repetition time where it is known better than from the header, s.
    native_ok : bool
        Whether volumes may lie in native space, because they come with a warp.

    Returns
    -------
    n_frames : int
    tr : float
        Seconds; NaN if nobody knows it.
    problem : str
        Why the run cannot be tokenized; empty if it can.

    Raises
    ------
    MachineError
        If the file cannot be read through no fault of its own, such as too many open files.
    """
    try:
        with told_apart("source", path):
            if path.name.endswith(".dtseries.nii"):
                n_frames, found = _cifti_header(path)
            elif path.name.endswith((".gii", ".gii.gz")):
                n_frames, found = _gifti_header(path)
            else:
                header = read_header(path)
                tr = header.tr if np.isnan(tr) else tr
                return header.n_frames, tr, header_problem(header, tr, native_ok=native_ok)
    except RunError as error:
        return 0, tr, str(error)
    if right is None and not path.name.endswith(".dtseries.nii"):
        return n_frames, tr, expected("GIFTI run", path, "a left and a right hemisphere",
                                      "one of them", "Add the other one.")  # fmt: skip
    tr = found if np.isnan(tr) else tr
    return n_frames, tr, _length_problem(n_frames) or _tr_problem(tr)


def header_problem(header: VolumeHeader, tr: float, *, native_ok: bool = False) -> str:
    """Say why a header cannot belong to a run that can be tokenized; empty if it can.

    Parameters
    ----------
    header : VolumeHeader
    tr : float
        Repetition time to be used, s: the header's, or what the cohort knows better.
    native_ok : bool
        Whether the run may lie in native space, because it comes with a warp.
    """
    if len(header.shape) != 4:
        return expected("Image", "in the header", "four dimensions", f"shape {header.shape}",
                        "Give the 4D time series, not a single volume.")  # fmt: skip
    voxels = math.prod(header.shape[:3])
    if not 0 < voxels <= _MOST_VOXELS:
        return expected("Image", "in the header", f"1 to {_MOST_VOXELS:,} voxels in a volume",
                        f"{voxels:,}", "Copy the file again, or repair its header.")  # fmt: skip
    problem = _length_problem(header.n_frames) or _tr_problem(tr)
    if problem or native_ok:
        return problem
    elsewhere = not_in_mni(header.shape, header.affine)
    if elsewhere:
        return expected("Image", "in the header", "a volume in MNI space", elsewhere,
                        "Warp the run to MNI 2 mm first.")  # fmt: skip
    return ""


def _length_problem(n_frames: int) -> str:
    if 2 <= n_frames <= _MOST_FRAMES:
        return ""
    if n_frames > _MOST_FRAMES:
        return expected("Image", "in the header", f"at most {_MOST_FRAMES:,} frames",
                        f"{n_frames:,}", "Copy the file again, or repair its header.")  # fmt: skip
    return expected("Image", "in the header", "at least two frames", n_frames,
                    "Give the whole time series.")  # fmt: skip


def _tr_problem(tr: float) -> str:
    if TR_RANGE_S[0] <= tr <= TR_RANGE_S[1]:
        return ""
    got = "none" if np.isnan(tr) else f"{tr:g} s"
    return expected("Repetition time", "in the header",
                    f"{TR_RANGE_S[0]:g} to {TR_RANGE_S[1]:g} s", got,
                    "Repair the header, or give it with --tr SECONDS.")  # fmt: skip


def _first_bytes(path: Path, size: int) -> bytes:
    with open_binary(path) as raw:
        if path.suffix != ".gz":
            return read_fully(raw, size)
        with gzip.open(raw, "rb") as file:
            return read_fully(file, size)


def _cifti_header(path: Path) -> tuple[int, float]:
    """Return frames and repetition time of a dense time series; its XML is searched, not parsed."""
    try:
        start = _first_bytes(path, 1 << 16)
        header = nib.Nifti2Header.from_fileobj(io.BytesIO(start[:540]))  # type: ignore[no-untyped-call]
        offset = int(header["vox_offset"])
        found = {key: match for key, match in _series_fields(start)}
        if offset > _MOST_EXTENSIONS:
            raise ValueError(f"a header of {offset:,} bytes")
        if len(found) < len(_SERIES_FIELDS) and offset > len(start):
            found = {key: match for key, match in _series_fields(_first_bytes(path, offset))}
        scale = 10.0 ** int(found["SeriesExponent"])
        tr = float(found["SeriesStep"]) * scale
        if found["SeriesUnit"] != "SECOND":
            tr = float("nan")
        return int(found["NumberOfSeriesPoints"]), tr
    except (*_DAMAGE, KeyError, ValueError, nib.spatialimages.HeaderDataError,
            nib.wrapstruct.WrapStructError) as error:  # fmt: skip
        raise RunError(
            expected("File", path, "a CIFTI-2 dense time series (dtseries.nii)",
                     f"{type(error).__name__}: {error}", "Copy the file again from its source.")
        ) from error  # fmt: skip


_SERIES_FIELDS = ("SeriesExponent", "SeriesStep", "SeriesUnit", "NumberOfSeriesPoints")


def _series_fields(xml: bytes) -> list[tuple[str, str]]:
    pattern = rb'(%s)\s*=\s*"([^"]*)"' % b"|".join(f.encode() for f in _SERIES_FIELDS)
    return [(key.decode(), value.decode()) for key, value in re.findall(pattern, xml)]


def _gifti_header(path: Path) -> tuple[int, float]:
    """Return frames and repetition time of a GIFTI time series; its arrays are counted."""
    arrays, columns, step = 0, None, None
    try:
        with open_binary(path) as raw:
            file: Any = gzip.open(raw, "rb") if path.suffix == ".gz" else raw
            for text, is_new in _overlapping(file):
                starts = [found.start() for found in re.finditer(rb"<DataArray\s", text)]
                arrays += sum(start >= is_new for start in starts)
                columns = columns or re.search(rb'Dim1\s*=\s*"(\d{1,18})"', text)
                step = step or re.search(_TIME_STEP, text)
        seconds = float(step[1]) / 1000 if step else float("nan")  # milliseconds, by AFNI
    except (*_DAMAGE, ValueError) as error:
        raise RunError(
            expected("File", path, "a GIFTI file", f"{type(error).__name__}: {error}",
                     "Copy the file again from its source.")
        ) from error  # fmt: skip
    if arrays == 1 and columns:
        arrays = int(columns[1])
    return arrays, seconds


_TIME_STEP = rb"TimeStep\]*>?\s*</Name>\s*<Value><!\[CDATA\[([\d.eE+-]+)"
#: Bytes of text that are searched at once, and that parts have in common: more than any tag.
_TEXT_PART, _TEXT_OVERLAP = 1 << 24, 1 << 12
#: Bytes of a GIFTI file when it is unpacked.
_MOST_TEXT = 2**33


def _overlapping(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield parts of a text, each with the end of the one before, and where what is new begins.

    A match that begins in the common bytes has been seen if it was whole there: only those that
    begin at or after the place yielded are new.
    """
    before, done = b"", 0
    while part := file.read(_TEXT_PART):
        done += len(part)
        if done > _MOST_TEXT:
            raise ValueError(f"more than {_MOST_TEXT:,} bytes")
        text = before + part
        yield text, max(0, len(before) - 10)
        before = text[-_TEXT_OVERLAP:]
