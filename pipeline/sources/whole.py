"""Read brain masks and warp fields as whole images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.nifti import VolumeHeader
from fmritok.pipeline.headers.run_header import looked_at, read_header
from fmritok.pipeline.sources.files import (
    HashedFile,
    check_claim,
    check_room,
    damage_named,
    open_binary,
)

__all__ = ["read_image", "skip"]

_SKIPPED_AT_ONCE = 1 << 20


def read_image(path: Path, what: str) -> tuple[VolumeHeader, npt.NDArray[np.float64]]:
    """Read a NIfTI file, with the same header checks as for a run.

    Parameters
    ----------
    path : Path
        Possibly inside a zip file.
    what : str
        Kind of file, for errors.

    Returns
    -------
    VolumeHeader
    np.ndarray of the header's shape, float64
        Values, with slope and intercept applied.

    Raises
    ------
    RunError
        If the file is damaged, its header claims more data than the file or memory holds, or it
        has values that are not finite.
    """
    header = read_header(path)
    size = math.prod(header.shape) * header.dtype.itemsize
    check_claim(path, header.offset + size)
    check_room(path, 4 * size, "values")
    with looked_at(path, f"a whole {what}"), damage_named(path, f"a whole {what}"):
        with open_binary(path) as raw:
            file = HashedFile(raw, path)
            skip(file, header.offset)
            data = file.read(size)
            if len(data) < size:
                raise EOFError(f"it ends after {len(data)} of {size} bytes")
            file.finish()
    stored = np.frombuffer(data, header.dtype).reshape(header.shape, order="F")
    values = stored.astype(np.float64)
    if header.slope != 1 or header.intercept:
        values = header.slope * values + header.intercept
    if not np.isfinite(values).all():
        raise RunError(
            expected(what.capitalize(), path, "finite values",
                     f"{int((~np.isfinite(values)).sum())} that are NaN or infinite",
                     "Make it again, with 0 where there is nothing.")
        )  # fmt: skip
    return header, values


def skip(file: HashedFile, n_bytes: int) -> None:
    """Skip the bytes before the data of a file, without allocating them at once.

    Raises
    ------
    EOFError
        If the file ends there.
    """
    while n_bytes:
        part = file.read(min(n_bytes, _SKIPPED_AT_ONCE))
        if not part:
            raise EOFError("it ends before its data")
        n_bytes -= len(part)
