"""Matrices in ``.npy`` files and in HDF5 files; nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fmritok.errors import RunError, expected
from fmritok.pipeline.parcels.layout import Matrix
from fmritok.pipeline.sources.files import (
    HashedFile,
    check_claim,
    check_room,
    damage_named,
    open_binary,
)
from fmritok.regular import check_regular

__all__ = ["HDF5", "dataset_names", "dataset_sha256", "dataset_stamp", "read_dataset",
           "read_npy", "split_hdf5"]  # fmt: skip

#: Extensions of HDF5 files. Paths go on inside of them, as if they were folders.
HDF5 = (".h5", ".hdf5", ".hdf")
#: Longest header of a .npy file.
_NPY_HEADER = 1 << 16


def read_npy(path: Path, *, values: bool = True) -> tuple[Matrix, str]:
    """Read a matrix from a ``.npy`` file.

    Parameters
    ----------
    path : Path
    values : bool
        Whether to read the numbers, or the shape only.

    Returns
    -------
    Matrix
    sha256 : str
        Of the stored bytes; empty if the numbers were not read.

    Raises
    ------
    RunError
        If the file is damaged or holds no matrix of numbers.
    """
    wanted = "an array of NumPy (.npy)"
    with damage_named(path, wanted), open_binary(path) as raw:
        file = HashedFile(raw, path)
        start = io.BytesIO(file.read(_NPY_HEADER))
        try:
            version = np.lib.format.read_magic(start)
            read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                    else np.lib.format.read_array_header_2_0)  # fmt: skip
            shape, is_fortran, dtype = read(start, max_header_size=_NPY_HEADER)
        except ValueError as error:
            raise _refusal(path, wanted, error, "Copy the file again.") from error
        _check_matrix(path, shape, dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        check_claim(path, size)
        if not values:
            return Matrix(shape[0], shape[1]), ""
        check_room(path, 2 * size, "numbers")
        rest = start.read()
        data = rest + file.read(max(0, size - len(rest)))
        if len(data) < size:
            raise EOFError(f"it ends after {len(data)} of {size} bytes")
        file.finish()
    matrix = np.frombuffer(data, dtype, count=int(np.prod(shape)))
    ordered = matrix.reshape(shape, order="F" if is_fortran else "C")
    return Matrix(shape[0], shape[1], values=_as_float(ordered)), file.sha256


def split_hdf5(path: Path) -> tuple[Path, str]:
    """Split a path into an HDF5 file and the name of a dataset in it, as if it were a folder.

    Returns
    -------
    path : Path
        The file on disk.
    name : str
        Empty if the path goes no further than the file.
    """
    for outer in (path, *path.parents):
        if outer.suffix in HDF5 and not outer.is_dir():
            inner = path.relative_to(outer).as_posix()
            return outer, "" if inner == "." else inner
    return path, ""


def dataset_names(path: Path) -> list[str]:
    """Return the names of all matrices of numbers in an HDF5 file.

    Raises
    ------
    RunError
        If it is no HDF5 file, or damaged.
    """
    found: list[str] = []

    def visit(name: str, thing: Any) -> None:
        if len(getattr(thing, "shape", None) or ()) == 2 and thing.dtype.kind in "iuf":
            found.append(name)

    with _opened(path) as file:
        file.visititems(visit)
    return found


def read_dataset(path: Path, *, values: bool = True) -> tuple[Matrix, str]:
    """Read a matrix from an HDF5 file.

    Parameters
    ----------
    path : Path
        The file, and after it the name of the dataset: ``all.h5/sub-01/rest``. The name may be left
        out if the file holds one matrix.
    values : bool
        Whether to read the numbers, or the shape only.

    Returns
    -------
    Matrix
    sha256 : str
        Of shape, type and values; empty if the numbers were not read.

    Raises
    ------
    RunError
        If there is no such matrix, or the file is damaged.
    """
    with _dataset(path) as dataset:
        shape, dtype = dataset.shape, dataset.dtype
        _check_matrix(path, shape, dtype)
        if not values:
            return Matrix(shape[0], shape[1]), ""
        check_room(path, 2 * int(np.prod(shape)) * dtype.itemsize, "numbers")
        stored = dataset[()]
    return Matrix(shape[0], shape[1], values=_as_float(stored)), _digest(stored)


def dataset_sha256(path: Path) -> str:
    """Return the digest of a matrix in an HDF5 file: of shape, type and values."""
    with _dataset(path) as dataset:
        _check_matrix(path, dataset.shape, dataset.dtype)
        check_room(path, 2 * int(np.prod(dataset.shape)) * dataset.dtype.itemsize, "numbers")
        return _digest(dataset[()])


def dataset_stamp(path: Path) -> tuple[int, int]:
    """Return the size of a matrix in bytes, and its file's modification time, ns since 1970."""
    outer, _ = split_hdf5(path)
    with _dataset(path) as dataset:
        return int(dataset.size) * dataset.dtype.itemsize, os.stat(outer).st_mtime_ns


@contextmanager
def _dataset(path: Path) -> Iterator[Any]:
    import h5py

    outer, name = split_hdf5(path)
    with _opened(outer) as file:
        found = file.get(name) if name else None
        if not isinstance(found, h5py.Dataset):
            names: list[str] = []
            file.visititems(lambda n, x: names.append(n) if isinstance(x, h5py.Dataset) else None)
            if name or len(names) != 1:
                some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                raise _refusal(
                    outer, f"a dataset {name!r}" if name else "one dataset",
                    some or "no dataset",
                    "Say in the pattern which one it is, after the name of the file: "
                    "{subject}.h5/NAME.",
                )  # fmt: skip
            found = file[names[0]]
        yield found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    check_regular(path)
    with damage_named(path, "a whole HDF5 file"):
        try:
            with h5py.File(path, "r") as file:
                yield file
        except RunError:
            raise
        except (KeyError, RuntimeError, ValueError) as error:
            raise _refusal(path, "a whole HDF5 file", error, "Copy the file again.") from error


def _check_matrix(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 2 or dtype.kind not in "iuf":
        raise _refusal(
            path, "a matrix of real numbers", f"shape {shape}, {dtype}",
            "Give one run in each file, frames x parcels.",
        )  # fmt: skip


def _as_float(values: Any) -> Any:
    return np.asarray(values, np.float64 if values.dtype.itemsize > 4 else np.float32)


def _digest(values: Any) -> str:
    digest = hashlib.sha256(repr((values.shape, values.dtype.str)).encode())
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _refusal(path: Path, wanted: str, got: object, next_step: str) -> RunError:
    return RunError(expected("Run file", path, wanted, got, next_step))
