"""Read the headers of runs, and report why a file cannot be a run."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fmritok.errors import MachineError, RunError, expected
from fmritok.faults import told_apart
from fmritok.pipeline.headers.first_bytes import HEADER_BYTES, file_start, refusal
from fmritok.pipeline.headers.nifti import VolumeHeader, parse_volume_header
from fmritok.pipeline.headers.placement import not_in_mni
from fmritok.pipeline.headers.surface import SurfaceHeader, read_cifti_header, read_gifti_header
from fmritok.pipeline.parcels.layout import SeriesLayout
from fmritok.pipeline.parcels.source import series_frames
from fmritok.regular import NotAFileError

__all__ = ["RunHeader", "header_problem", "looked_at", "read_header", "run_header"]

#: Upper limits. A header with more voxels or frames is damaged or forged.
_MOST_FRAMES, _MOST_VOXELS = 2**20, 2**28


@dataclass(frozen=True)
class RunHeader:
    """Header fields of a run for the catalogue.

    Attributes
    ----------
    n_frames : int
        0 if the header cannot be read.
    tr : float
        Repetition time, s; NaN if the header has none. Not checked.
    problem : str
        Why the run cannot be tokenized; empty if it can.
    questions : tuple of str
        Doubts about the header.
    """

    n_frames: int
    tr: float
    problem: str = ""
    questions: tuple[str, ...] = ()


@contextmanager
def looked_at(path: Path, wanted: str) -> Iterator[None]:
    """Turn all exceptions while a file is examined into one error that names the file.

    Parameters
    ----------
    path : Path
    wanted : str
        Expected kind of file.

    Raises
    ------
    RunError
    MachineError
        If the machine is at fault, for example with too many open files.
    """
    try:
        with told_apart("source", path):
            yield
    except (MachineError, RunError):
        raise
    except Exception as error:  # libraries raise all kinds of exceptions for damaged files
        got = f"{type(error).__name__}: {error}".rstrip(": .")
        if isinstance(error, NotAFileError | IsADirectoryError):
            got = error.strerror or got
        elif isinstance(error, FileNotFoundError):
            # Of a member of a zip file, our own words.
            ordinary = error.strerror in (None, os.strerror(errno.ENOENT))
            got = "no such file" if ordinary else str(error.strerror)
        raise refusal(path, wanted, got) from error


def read_header(path: Path) -> VolumeHeader:
    """Read a NIfTI header, compressed or not, without reading the data.

    Raises
    ------
    RunError
        If the header is unreadable or implausible.
    """
    with looked_at(path, "a readable NIfTI header"):
        return parse_volume_header(file_start(path, HEADER_BYTES), path)


def run_header(
    path: Path, right: Path | None = None, *, native_ok: bool = False, layout: str = ""
) -> RunHeader:
    """Read the header of one run. The data are not read, except for GIFTI files and text.

    Parameters
    ----------
    path : Path
        NIfTI volumes, a CIFTI ``dtseries.nii`` or the left ``func.gii``; may lie in a zip file. Or
        time courses of parcels.
    right : Path, optional
        The right ``func.gii``.
    native_ok : bool
        Whether volumes may be in native space: they come with a warp.
    layout : str
        Of time courses of parcels, see :class:`fmritok.pipeline.sources.opening.RunFiles`.

    Raises
    ------
    MachineError
        If the machine is at fault, for example with too many open files.
    """
    header: SurfaceHeader | VolumeHeader
    problem = ""
    try:
        if path.name.endswith((".dtseries.nii", ".ptseries.nii")):
            with looked_at(path, "a CIFTI-2 time series (dtseries.nii, ptseries.nii)"):
                header = read_cifti_header(path)
        elif layout:
            with looked_at(path, "time courses of parcels"):
                n_frames = series_frames(path, SeriesLayout.from_text(layout))
            header = SurfaceHeader(n_frames, math.nan)
        elif path.name.endswith((".gii", ".gii.gz")):
            with looked_at(path, "a GIFTI file"):
                header = read_gifti_header(path)
            if right is None:
                problem = expected("GIFTI run", path, "a left and a right hemisphere",
                                   "one of them", "Add the other one.")  # fmt: skip
        else:
            header = read_header(path)
            problem = header_problem(header, path, native_ok=native_ok)
    except RunError as error:
        return RunHeader(0, float("nan"), str(error))
    problem = problem or _length_problem(header.n_frames, path)
    return RunHeader(header.n_frames, header.tr, problem, header.questions)


def header_problem(header: VolumeHeader, path: Path, *, native_ok: bool = False) -> str:
    """Return why a run with this header cannot be tokenized; empty if it can.

    Parameters
    ----------
    header : VolumeHeader
    path : Path
        File of the header.
    native_ok : bool
        Whether the run may be in native space: it comes with a warp.
    """
    if len(header.shape) != 4:
        return expected("Image", path, "four dimensions", f"shape {header.shape}",
                        "Give the 4D time series, not a single volume.")  # fmt: skip
    voxels = math.prod(header.shape[:3])
    if not 0 < voxels <= _MOST_VOXELS:
        return expected("Image", path, f"1 to {_MOST_VOXELS:,} voxels in a volume",
                        f"{voxels:,}", "Copy the file again, or repair its header.")  # fmt: skip
    problem = _length_problem(header.n_frames, path)
    if problem or native_ok:
        return problem
    elsewhere = not_in_mni(header.shape, header.affine)
    if elsewhere:
        return expected("Image", path, "a volume in MNI space", elsewhere,
                        "Warp the run to MNI 2 mm first.")  # fmt: skip
    return ""


def _length_problem(n_frames: int, path: Path) -> str:
    if 2 <= n_frames <= _MOST_FRAMES:
        return ""
    if n_frames > _MOST_FRAMES:
        return expected("Image", path, f"at most {_MOST_FRAMES:,} frames", f"{n_frames:,}",
                        "Copy the file again, or repair its header.")  # fmt: skip
    return expected("Image", path, "at least two frames", n_frames,
                    "Give the whole time series.")  # fmt: skip
