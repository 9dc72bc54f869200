"""Large arrays in unnamed temporary files, to bound memory."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import MachineError, expected, wrong_usage

__all__ = ["ScratchArray", "check_scratch"]


class ScratchArray:
    """An array in a temporary file. The file is gone when the process ends, even if it is killed.

    Read and write slices of the first axis. The file is not memory-mapped: mapped pages would count
    as memory of the process, and clusters kill workers above their memory limit.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    folder : Path, optional
        Default: the system's folder for temporary files.

    Raises
    ------
    OSError
        ``ENOSPC`` if the disk is full. The space is reserved in the constructor.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path | None = None
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        size = max(1, shape[0] * self._row_bytes)
        try:
            os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                self._file.close()
                raise
            os.ftruncate(self._file.fileno(), size)  # a file system without fallocate

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        first, end, _ = rows.indices(len(self))
        values = np.empty((max(0, end - first), *self.shape[1:]), self.dtype)
        waiting = memoryview(values.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        offset = first * self._row_bytes
        while waiting:
            count = os.preadv(self._file.fileno(), [waiting], offset)
            if not count:
                raise OSError(errno.EIO, "a working file was cut off", str(self._file.name))
            waiting, offset = waiting[count:], offset + count
        return values

    def __setitem__(self, rows: slice, values: npt.NDArray[Any]) -> None:
        first, _, _ = rows.indices(len(self))
        plain = np.ascontiguousarray(values, self.dtype)
        waiting = memoryview(plain.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        offset = first * self._row_bytes
        while waiting:
            count = os.pwrite(self._file.fileno(), waiting, offset)
            waiting, offset = waiting[count:], offset + count

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()


def check_scratch(folder: Path | None) -> None:
    """Check early that temporary files can be created.

    Parameters
    ----------
    folder : Path, optional
        Default: the system's folder for temporary files.

    Raises
    ------
    MachineError
        If the folder does not exist, or cannot be written to.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise wrong_usage(MachineError(
            expected("Scratch folder", folder or "for temporary files",
                     "a folder that exists and can be written to", error,
                     "Make it, or choose another (--scratch).")
        )) from error  # fmt: skip
