"""Headers of surface runs: CIFTI dense time series, and GIFTI files."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from fmritok.errors import RunError
from fmritok.pipeline.headers.first_bytes import HEADER_BYTES, file_start, raw_header, refusal
from fmritok.pipeline.headers.nifti import value_type
from fmritok.pipeline.sources.files import open_binary, read_fully
from fmritok.quantities import counted

__all__ = ["SurfaceHeader", "raw_cifti_header", "read_cifti_header", "read_gifti_header"]

#: Bytes to read first: they usually contain the time axis of a CIFTI file.
_CIFTI_START = 1 << 16
_SERIES_FIELDS = ("SeriesExponent", "SeriesStep", "SeriesUnit", "NumberOfSeriesPoints")
#: AFNI's time step in a GIFTI file, ms; with or without CDATA.
_TIME_STEP = re.compile(
    rb"TimeStep\s*(?:\]\]>)?\s*</Name>\s*<Value>\s*(?:<!\[CDATA\[)?\s*([\d.eE+-]+)"
)


#: Largest size of the extensions of a CIFTI file, bytes.
_MOST_EXTENSIONS = 2**26
#: Size of the parts of a text that are searched, and their overlap, which is longer than any tag.
_TEXT_PART, _TEXT_OVERLAP = 1 << 24, 1 << 12
#: Largest decompressed size of a GIFTI file, bytes.
_MOST_TEXT = 2**33


@dataclass(frozen=True)
class SurfaceHeader:
    """Header of a surface run.

    Attributes
    ----------
    n_frames : int
    tr : float
        Repetition time, s; NaN if the file has none.
    questions : tuple of str
        Doubts about the header.
    """

    n_frames: int
    tr: float
    questions: tuple[str, ...] = ()


def read_cifti_header(path: Path) -> SurfaceHeader:
    """Read frames and repetition time of a ``dtseries.nii``. Its XML is searched, not parsed.

    Raises
    ------
    RunError
    """
    start = file_start(path, _CIFTI_START)
    header = raw_cifti_header(start.content[:HEADER_BYTES], path)
    offset = int(header["vox_offset"])
    if offset > _MOST_EXTENSIONS:
        raise _no_cifti(path, f"a header of {offset:,} bytes")
    n_bytes = math.prod(header["dim"][5:7].tolist()) * value_type(header, path).itemsize
    if start.size is not None and start.size < offset + n_bytes:
        raise _no_cifti(path, f"{start.size} of {counted(offset + n_bytes, 'byte')}")
    fields = _series_fields(start.content[:offset])
    if set(_SERIES_FIELDS) - set(fields) and offset > len(start.content):
        fields = _series_fields(file_start(path, offset).content)
    missing = [name for name in _SERIES_FIELDS if name not in fields]
    if missing:
        raise _no_cifti(path, f"no {missing[0]} in its XML")
    n_frames = int(fields["NumberOfSeriesPoints"])
    if n_frames != int(header["dim"][5]):
        raise _no_cifti(
            path, f"{counted(n_frames, 'frame')} in its XML and {int(header['dim'][5])} before it"
        )
    tr = round(float(fields["SeriesStep"]) * 10.0 ** int(fields["SeriesExponent"]), 6)
    questions = []
    if fields["SeriesUnit"] != "SECOND":
        tr = math.nan
        questions.append("the series is not in seconds: no repetition time")
    if float(fields.get("SeriesStart", "0")) != 0:
        questions.append("the series begins at another time than 0 (SeriesStart): events are taken "
                         "to count from the first frame")  # fmt: skip
    return SurfaceHeader(n_frames, tr, tuple(questions))


def raw_cifti_header(start: bytes, path: Path) -> Any:
    """Parse the fields of the NIfTI-2 header of a CIFTI file with nibabel.

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
    """Read frames (the number of arrays) and repetition time of a GIFTI time series."""
    arrays, columns, step = 0, None, None
    with open_binary(path) as raw:
        file: Any = gzip.open(raw, "rb") if path.suffix == ".gz" else raw
        start = read_fully(file, 4096)
        if b"<GIFTI" not in start:
            raise refusal(path, "a GIFTI file", "other data")
        for text, is_new in _overlapping(start, file):
            starts = [found.start() for found in re.finditer(rb"<DataArray\s", text)]
            arrays += sum(start >= is_new for start in starts)
            columns = columns or re.search(rb'Dim1\s*=\s*"(\d{1,18})"', text)
            step = step or _TIME_STEP.search(text)
    if arrays == 1 and columns:
        arrays = int(columns[1])
    return SurfaceHeader(arrays, round(float(step[1]) / 1000, 9) if step else math.nan)


def _overlapping(start: bytes, file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield overlapping parts of a text, and the offset of the new bytes in each.

    Each part begins with the end of the part before. Count only matches that begin at or after the
    offset: earlier ones were whole in the part before.
    """
    before, done = b"", 0
    for part in chain([start], iter(lambda: file.read(_TEXT_PART), b"")):
        done += len(part)
        if done > _MOST_TEXT:
            raise ValueError(f"more than {_MOST_TEXT:,} bytes")
        text = before + part
        yield text, max(0, len(before) - 10)
        before = text[-_TEXT_OVERLAP:]


def _no_cifti(path: Path, got: str) -> RunError:
    return refusal(path, "a CIFTI-2 time series (dtseries.nii, ptseries.nii)", got)
