"""Time courses of parcels as the samples of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.parcels.arrays import HDF5, dataset_sha256, read_dataset, read_npy, split_hdf5
from fmritok.pipeline.parcels.layout import Matrix, SeriesLayout, frames_by_parcels
from fmritok.pipeline.parcels.text import SUFFIXES, read_text_matrix
from fmritok.pipeline.sources.files import file_sha256
from fmritok.tokenizers.spaces import ParcelSpace

__all__ = ["ParcelSource", "is_series", "series_frames", "series_sha256"]

_FRAMES_A_BLOCK = 64


def is_series(path: Path) -> bool:
    """Whether a file is one of those that hold time courses of parcels, by its name."""
    name = path.name.removesuffix(".gz")
    return name.endswith((*SUFFIXES, ".npy")) or split_hdf5(path)[0].suffix in HDF5


def series_frames(path: Path, layout: SeriesLayout) -> int:
    """Return the number of frames of a run, without parsing its numbers.

    Raises
    ------
    RunError
        If the file is damaged, or its matrix has other parcels than the atlas.
    """
    matrix, _ = _read(path, values=False)
    return frames_by_parcels(matrix, layout, path)[0]


def series_sha256(path: Path) -> str:
    """Return the digest of a run's file, or of its matrix in an HDF5 file."""
    return dataset_sha256(path) if split_hdf5(path)[0].suffix in HDF5 else file_sha256(path)


class ParcelSource:
    """The parcels of one run; see :class:`fmritok.pipeline.sources.opening.RunSource`.

    Parameters
    ----------
    path : Path
        Text, ``.npy``, or a matrix in an HDF5 file.
    layout : SeriesLayout

    Raises
    ------
    RunError
        If the file is damaged, or its matrix has other parcels than the atlas.
    """

    slope, intercept = 1.0, 0.0
    to_space = None
    description = ""
    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, layout: SeriesLayout) -> None:
        matrix, self.source_sha256 = _read(path, values=True)
        self.n_frames, names, chosen = frames_by_parcels(matrix, layout, path)
        assert matrix.values is not None
        values = matrix.values.T if layout.frames == "columns" else matrix.values
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused
            self._values = values[:, chosen].astype(np.float32)
        self.space = ParcelSpace(len(chosen), names)

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield values (n_frames, n_parcels), float32."""
        for first in range(0, self.n_frames, _FRAMES_A_BLOCK):
            yield self._values[first : first + _FRAMES_A_BLOCK]


def _read(path: Path, *, values: bool) -> tuple[Matrix, str]:
    if split_hdf5(path)[0].suffix in HDF5:
        return read_dataset(path, values=values)
    if path.name.removesuffix(".gz").endswith(".npy"):
        return read_npy(path, values=values)
    if is_series(path):
        return read_text_matrix(path, values=values)
    raise RunError(
        expected("Run file", path, f"{', '.join((*SUFFIXES, '.npy', *HDF5))} or .ptseries.nii",
                 f"the extension {path.suffix!r}", "Convert it, or correct the pattern.")
    )  # fmt: skip
