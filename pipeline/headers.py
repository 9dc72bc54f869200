"""Read NIfTI headers in a millisecond, and say what in them cannot belong to a run."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import RunError, expected
from fmritok.pipeline.placement import not_in_mni

__all__ = ["VolumeHeader", "header_problem", "read_header"]

#: Repetition times outside of this are a mistake of the header, s.
TR_RANGE_S = (0.1, 20.0)
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
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            start = file.read(540)
        size = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
        kind = nib.Nifti2Header if 540 in size else nib.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(start))  # type: ignore[no-untyped-call]
    except (OSError, EOFError, zlib.error, nib.spatialimages.HeaderDataError,
            nib.wrapstruct.WrapStructError) as error:  # fmt: skip
        raise RunError(
            expected("File", path, "a readable NIfTI header", f"{type(error).__name__}: {error}",
                     "Copy the file again from its source.")
        ) from error  # fmt: skip
    slope, intercept = header.get_slope_inter()
    shape = tuple(int(n) for n in header.get_data_shape())
    zooms = header.get_zooms()
    unit = _SECONDS.get(header.get_xyzt_units()[1], 1.0)
    tr = float(zooms[3]) * unit if len(zooms) > 3 and zooms[3] > 0 else float("nan")
    return VolumeHeader(
        shape=shape,
        affine=np.asarray(header.get_best_affine(), np.float64),
        tr=tr,
        dtype=header.get_data_dtype(),
        offset=int(header["vox_offset"]) or 352,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
    )


def header_problem(header: VolumeHeader, tr: float) -> str:
    """Say why a header cannot belong to a run that can be tokenized; empty if it can.

    Parameters
    ----------
    header : VolumeHeader
    tr : float
        Repetition time to be used, s: the header's, or what the cohort knows better.
    """
    if len(header.shape) != 4:
        return expected("Image", "in the header", "four dimensions", f"shape {header.shape}",
                        "Give the 4D time series, not a single volume.")  # fmt: skip
    if header.n_frames < 2:
        return expected("Image", "in the header", "at least two frames", header.n_frames,
                        "Give the whole time series.")  # fmt: skip
    if not TR_RANGE_S[0] <= tr <= TR_RANGE_S[1]:
        got = "none" if np.isnan(tr) else f"{tr:g} s"
        return expected("Repetition time", "in the header",
                        f"{TR_RANGE_S[0]:g} to {TR_RANGE_S[1]:g} s", got,
                        "Repair the header, or give it with --tr SECONDS.")  # fmt: skip
    elsewhere = not_in_mni(header.shape, header.affine)
    if elsewhere:
        return expected("Image", "in the header", "a volume in MNI space", elsewhere,
                        "Warp the run to MNI 2 mm first.")  # fmt: skip
    return ""
