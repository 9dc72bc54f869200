"""Large working arrays that live in an unnamed file, so that memory stays bounded."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["scratch_array"]


def scratch_array(
    shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path | None = None
) -> np.memmap:
    """Reserve an array in a temporary file that vanishes with the process, however that ends.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    folder : Path, optional
        Default: the system's folder for temporary files.

    Raises
    ------
    OSError
        ``ENOSPC`` if the disk has no room: the space is reserved at once, because a mapped file
        that cannot grow would kill the process later.
    """
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            os.ftruncate(file.fileno(), size)  # a file system that cannot reserve
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
