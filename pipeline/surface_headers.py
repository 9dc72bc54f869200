"""Headers of surface runs: CIFTI dense time series, and GIFTI files."""

from __future__ import annotations

import gzip
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmritok.pipeline.errors import RunError, expected
from fmritok.pipeline.nifti import HEADER_BYTES, file_start, raw_header, value_type
from fmritok.pipeline.sources.files import open_binary

__all__ = ["SurfaceHeader", "raw_cifti_header", "read_cifti_header", "read_gifti_header"]

#: Bytes in which the time axis of a CIFTI file usually lies.
_CIFTI_START = 1 << 16
_SERIES_FIELDS = ("SeriesExponent", "SeriesStep", "SeriesUnit", "NumberOfSeriesPoints")
#: AFNI's time step of a GIFTI file, ms; with CDATA around the texts or without.
_TIME_STEP = re.compile(
    rb"TimeStep\s*(?:\]\]>)?\s*</Name>\s*<Value>\s*(?:<!\[CDATA\[)?\s*([\d.eE+-]+)"
)


@dataclass(frozen=True)
class SurfaceHeader:
    """What the header of a surface run says.

    Attributes
    ----------
    n_frames : int
    tr : float
        Repetition time, s; NaN if the file has none.
    questions : tuple of str
        What is doubtful.
    """

    n_frames: int
    tr: float
    questions: tuple[str, ...] = ()


def read_cifti_header(path: Path) -> SurfaceHeader:
    """Read frames and repetition time of a ``dtseries.nii``; its XML is searched, not parsed.

    Raises
    ------
    RunError
    """
    start = file_start(path, _CIFTI_START)
    header = raw_cifti_header(start.content[:HEADER_BYTES], path)
    offset = int(header["vox_offset"])
    n_bytes = math.prod(header["dim"][5:7].tolist()) * value_type(header, path).itemsize
    if start.size is not None and start.size < offset + n_bytes:
        raise _no_cifti(path, f"{start.size} of {offset + n_bytes} bytes")
    fields = _series_fields(start.content[:offset])
    if set(_SERIES_FIELDS) - set(fields) and offset > len(start.content):
        fields = _series_fields(file_start(path, offset).content)
    missing = [name for name in _SERIES_FIELDS if name not in fields]
    if missing:
        raise _no_cifti(path, f"no {missing[0]} in its XML")
    n_frames = int(fields["NumberOfSeriesPoints"])
    if n_frames != int(header["dim"][5]):
        raise _no_cifti(path, f"{n_frames} frames in its XML and {int(header['dim'][5])} before it")
    tr = round(float(fields["SeriesStep"]) * 10.0 ** int(fields["SeriesExponent"]), 6)
    questions = []
    if fields["SeriesUnit"] != "SECOND":
        tr = math.nan
        questions.append("the series is not counted in seconds: no repetition time")
    if float(fields.get("SeriesStart", "0")) != 0:
        questions.append("the series begins at another time than 0 (SeriesStart): events are taken "
                         "to count from the first frame")  # fmt: skip
    return SurfaceHeader(n_frames, tr, tuple(questions))


def raw_cifti_header(start: bytes, path: Path) -> Any:
    """Return the fields of the NIfTI-2 header of a CIFTI file, as nibabel has them.

    Raises
    ------
    RunError
    """
    header = raw_header(start, path)
    if header.sizeof_hdr != HEADER_BYTES:
        raise _no_cifti(path, "a NIfTI-1 file")
    if int(header["vox_offset"]) < header.single_vox_offset:
        raise _no_cifti(path, f"a vox_offset of {int(header['vox_offset'])}")
    return header


def _series_fields(xml: bytes) -> dict[str, str]:
    names = "|".join((*_SERIES_FIELDS, "SeriesStart")).encode()
    found = re.findall(rb'\b(%s)\s*=\s*["\']([^"\']*)["\']' % names, xml)
    return {key.decode(): value.decode() for key, value in found}


def read_gifti_header(path: Path) -> SurfaceHeader:
    """Read frames and repetition time of a GIFTI time series; its arrays are counted."""
    with open_binary(path) as raw:
        file = gzip.open(raw, "rb") if path.suffix == ".gz" else raw
        text = file.read()
    if b"<GIFTI" not in text[:4096]:
        raise RunError(
            expected("File", path, "a GIFTI file", "other data",
                     "Copy the file again from its source.")
        )  # fmt: skip
    arrays = text.count(b"<DataArray ") + text.count(b"<DataArray\n")
    if arrays == 1:
        columns = re.search(rb'Dim1\s*=\s*"(\d+)"', text)
        arrays = int(columns[1]) if columns else 1
    step = _TIME_STEP.search(text)
    return SurfaceHeader(arrays, round(float(step[1]) / 1000, 9) if step else math.nan)


def _no_cifti(path: Path, got: str) -> RunError:
    return RunError(
        expected("File", path, "a CIFTI-2 dense time series (dtseries.nii)", got,
                 "Copy the file again from its source.")
    )  # fmt: skip
