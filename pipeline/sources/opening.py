"""Open a run: choose the source class for its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.files import file_sha256
from fmritok.tokenizers.spaces import SampleSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["RunFiles", "RunSource", "open_run", "source_sha256"]


@dataclass(frozen=True)
class RunFiles:
    """Files of one run as text, which pickles well; empty for files that the run does not have.

    Attributes
    ----------
    path : str
        Volumes, grayordinates, or the left hemisphere.
    right : str
        The right hemisphere.
    warp : str
        FSL warp to MNI space, for volumes in native space.
    mask : str
        Brain mask on the grid of the volumes.
    """

    path: str
    right: str = ""
    warp: str = ""
    mask: str = ""


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
    path = Path(files.path)
    if path.name.endswith(".dtseries.nii"):
        from fmritok.pipeline.sources.surface import CiftiSource

        return CiftiSource(path)
    if path.name.endswith((".gii", ".gii.gz")):
        from fmritok.pipeline.sources.surface import GiftiSource

        if not files.right:
            raise RunError(
                expected("GIFTI run", path, "a left and a right hemisphere", "one of them",
                         "Add the file of the other hemisphere.")
            )  # fmt: skip
        return GiftiSource(path, Path(files.right))
    from fmritok.pipeline.sources.volume import VolumeSource

    volumes = VolumeSource(path, Path(files.mask) if files.mask else None)
    if files.warp:
        from fmritok.pipeline.sources.warp import WarpedSource

        return WarpedSource(volumes, Path(files.warp))
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
    if not data:
        data = file_sha256(Path(files.path))
        if files.right:
            both = data + file_sha256(Path(files.right))
            data = hashlib.sha256(both.encode()).hexdigest()
    further = [file_sha256(Path(path)) for path in (files.mask, files.warp) if path]
    return hashlib.sha256("".join([data, *further]).encode()).hexdigest() if further else data
