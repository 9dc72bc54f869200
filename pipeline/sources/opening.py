"""The files of a run, and how they are opened: the source class for their kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.files import file_sha256
from fmritok.tokenizers.spaces import SampleSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["FILE_COLUMNS", "RunFiles", "RunSource", "as_row", "files_of_row", "open_run",
           "source_sha256"]  # fmt: skip


@dataclass(frozen=True)
class RunFiles:
    """Files of one run.

    Attributes
    ----------
    path : Path
        Volumes, grayordinates, or left hemisphere.
    right : Path, optional
        Right hemisphere of a pair of GIFTI files.
    warp : Path, optional
        FSL warp field from the native space of `path` to MNI.
    mask : Path, optional
        Brain mask on the grid of the volumes.
    layout : str
        For time courses of parcels: :class:`fmritok.pipeline.parcels.layout.SeriesLayout` as text.
    """

    path: Path
    right: Path | None = None
    warp: Path | None = None
    mask: Path | None = None
    layout: str = ""


#: Columns of the catalogue with the files of a run, in this order.
FILE_COLUMNS = tuple(one.name for one in fields(RunFiles))


def files_of_row(row: Mapping[Any, Any]) -> RunFiles:
    """Return the files named by a row of the catalogue."""
    paths = (name for name in FILE_COLUMNS if name != "layout" and row[name])
    return RunFiles(**{name: Path(row[name]) for name in paths}, layout=row["layout"])


def as_row(files: RunFiles) -> dict[str, str]:
    """Return the files as columns of the catalogue: text, empty for a file that is not there."""
    return {name: str(getattr(files, name) or "") for name in FILE_COLUMNS}


class RunSource(Protocol):
    """The samples of one run, read once and forward."""

    @property
    def space(self) -> SampleSpace:
        """Sample space, after `to_space` is applied."""

    @property
    def to_space(self) -> SparseMap | None:
        """Map from stored samples to the samples of `space`; None if they are the same.

        A tokenizer multiplies this matrix with its own once per run.
        """

    @property
    def n_frames(self) -> int:
        """Frames of the run."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of blocks."""

    @property
    def slope(self) -> float:
        """Slope of intensities: ``intensity = slope * stored + intercept``."""

    @property
    def intercept(self) -> float:
        """Intercept of intensities; see ``slope``."""

    @property
    def description(self) -> str:
        """Description of the processing while reading; empty if none."""

    @property
    def source_sha256(self) -> str:
        """Hex digest of the stored bytes; available after all blocks were read."""

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield blocks of stored values, shape (n_frames, n_stored_samples)."""


def open_run(files: RunFiles) -> RunSource:
    """Open a run for reading.

    Raises
    ------
    RunError
        If the header is unreadable, or the files of the run do not match.
    """
    path = files.path
    if path.name.endswith((".dtseries.nii", ".ptseries.nii")):
        from fmritok.pipeline.sources.surface import CiftiSource

        return CiftiSource(path)
    if files.layout:
        from fmritok.pipeline.parcels.layout import SeriesLayout
        from fmritok.pipeline.parcels.source import ParcelSource

        return ParcelSource(path, SeriesLayout.from_text(files.layout))
    if path.name.endswith((".gii", ".gii.gz")):
        from fmritok.pipeline.sources.surface import GiftiSource

        if not files.right:
            raise RunError(
                expected("GIFTI run", path, "a left and a right hemisphere", "one of them",
                         "Add the file of the other hemisphere.")
            )  # fmt: skip
        return GiftiSource(path, files.right)
    from fmritok.pipeline.sources.volume import VolumeSource

    volumes = VolumeSource(path, files.mask)
    if files.warp:
        from fmritok.pipeline.sources.warp import WarpedSource

        return WarpedSource(volumes, files.warp)
    return volumes


def source_sha256(files: RunFiles, *, data: str = "") -> str:
    """Return the digest of all files of a run.

    For a single file: its sha256. With a mask or a warp: the sha256 of the concatenated digests of
    data, mask and warp.

    Parameters
    ----------
    files : RunFiles
    data : str
        Digest of the data, if they were read already (`RunSource.source_sha256`).
    """
    if not data and files.layout:
        from fmritok.pipeline.parcels.source import series_sha256

        data = series_sha256(files.path)
    elif not data:
        data = file_sha256(files.path)
        if files.right:
            both = data + file_sha256(files.right)
            data = hashlib.sha256(both.encode()).hexdigest()
    further = [file_sha256(path) for path in (files.mask, files.warp) if path]
    return hashlib.sha256("".join([data, *further]).encode()).hexdigest() if further else data
