"""Volumes of a run on the canonical grid, with statistics, kept on disk for a second pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.headers.placement import Placement
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import RunFiles, RunSource, open_run
from fmritok.pipeline.sources.scratch import ScratchArray
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.vae.intensity import VolumeStatistics

__all__ = ["RunVolumes", "scaled_product"]

_LEAST_SUM = float(np.finfo(np.float64).tiny)


class RunVolumes:
    """Volumes of one run on the canonical grid.

    :meth:`add` takes the blocks of the source, updates the statistics and writes the placed frames
    to a temporary file. Later passes read that file.

    Parameters
    ----------
    source : RunSource
        Source of volumes.
    voxel_statistics : bool
        Whether to compute mean and standard deviation of each voxel.
    scratch : Path, optional
        Folder for the temporary file (1.8 MB per frame for int16 files).
    """

    def __init__(
        self, source: RunSource, *, voxel_statistics: bool = False, scratch: Path | None = None
    ) -> None:
        assert isinstance(source.space, VolumeSpace)
        self.source = source
        self.n_frames = source.n_frames
        self.placement = Placement(source.space.affine, source.space.shape)
        # With an intercept, the 0 of the padding has no stored value: keep intensities instead.
        self._spool_scaled = not (
            self.placement.exact and source.intercept == 0 and source.to_space is None
        )
        self._spool = ScratchArray(
            (self.n_frames, *SHAPE), np.float32 if self._spool_scaled else source.dtype, scratch
        )
        self._gathered = _Gathered(voxel_statistics)
        self._done = 0

    @classmethod
    def read(
        cls,
        files: Path | RunFiles,
        *,
        voxel_statistics: bool = False,
        scratch: Path | None = None,
    ) -> RunVolumes:
        """Open a file of volumes, with its mask and warp if it has them, and add all of it.

        Raises
        ------
        RunError
            If the file is damaged, holds NaN, or never changes.
        """
        files = RunFiles(files) if isinstance(files, Path) else files
        source = open_run(files)
        volumes = cls(source, voxel_statistics=voxel_statistics, scratch=scratch)
        for block in checked_blocks(source, str(files.path)):
            volumes.add(block)
        return volumes

    def __enter__(self) -> RunVolumes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the space of the temporary file."""
        self._spool.close()

    def add(self, block: npt.NDArray[Any]) -> None:
        """Place the next frames of the run.

        Parameters
        ----------
        block : np.ndarray of shape (n_frames, stored samples)
            Stored values, first axis of the grid fastest.
        """
        if self.source.to_space is not None:
            block = scaled_product(self.source.to_space, block, self.source).T
        elif self._spool_scaled:
            block = self._apply_slope(block)
        shape = self.placement.shape
        placed = self.placement.place(block.reshape(len(block), *shape[::-1]).transpose(0, 3, 2, 1))
        self._spool[self._done : self._done + len(placed)] = placed
        self._gathered.add(self._scaled(placed))
        self._done += len(placed)

    @property
    def source_sha256(self) -> str:
        """Hex digest of the stored bytes."""
        return self.source.source_sha256

    @property
    def description(self) -> str:
        """Description of the placement on the canonical grid."""
        return self.placement.description + self.source.description

    @property
    def statistics(self) -> VolumeStatistics:
        """Statistics over all added frames."""
        return self._gathered.statistics()

    def frames_at(self, numbers: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return single frames (n_frames, 96, 96, 96), as :meth:`blocks` would."""
        return np.concatenate([self._scaled(self._spool[i : i + 1]) for i in numbers])

    def blocks(self, frames: int = 8) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield consecutive frames.

        Yields
        ------
        first : int
            Index of the block's first frame.
        volumes : np.ndarray of shape (<= frames, 96, 96, 96), float32
            Intensities (slope and intercept applied).
        """
        for first in range(0, self.n_frames, frames):
            yield first, self._scaled(self._spool[first : first + frames])

    def _apply_slope(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = stored.astype(np.float32)
        if self.source.slope != 1:
            values *= np.float32(self.source.slope)
        if self.source.intercept:
            values += np.float32(self.source.intercept)
        return values

    def _scaled(self, placed: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return placed.astype(np.float32) if self._spool_scaled else self._apply_slope(placed)


def scaled_product(
    matrix: SparseMap, block: npt.NDArray[Any], source: RunSource
) -> npt.NDArray[np.float32]:
    """Map stored values to places, and apply slope and intercept.

    Parameters
    ----------
    matrix : SparseMap
    block : np.ndarray of shape (n_frames, stored samples)
    source : RunSource

    Returns
    -------
    np.ndarray of shape (n_places, n_frames), float32
    """
    values = matrix.apply_to_frames(block)
    if source.slope != 1:
        values *= np.float32(source.slope)
    if source.intercept:
        values += np.float32(source.intercept) * matrix.sums[:, None]
    return values


class _Gathered:
    """Statistics over the frames of one run, updated block by block."""

    def __init__(self, voxel_statistics: bool) -> None:
        self._voxels = voxel_statistics
        self._first: npt.NDArray[np.float32] | None = None
        self._maximum = -np.inf
        self._sum_below = self._sum_above = 0.0
        self._frames = 0

    def add(self, volumes: npt.NDArray[np.float32]) -> None:
        self._maximum = max(self._maximum, float(volumes.max()))
        total = float(volumes.sum(dtype=np.float64))
        below = float(np.minimum(volumes, 0).sum(dtype=np.float64)) if volumes.min() < 0 else 0.0
        self._sum_below -= below
        self._sum_above += total - below
        self._frames += len(volumes)
        if not self._voxels:
            return
        if self._first is None:
            self._first = volumes[0].copy()
            self._sum = np.zeros(volumes.shape[1:], np.float64)
            self._squares = np.zeros(volumes.shape[1:], np.float64)
        # Sums of deviations from the first frame keep their precision.
        for volume in volumes:
            shifted = (volume - self._first).astype(np.float64)
            self._sum += shifted
            self._squares += shifted * shifted

    def statistics(self) -> VolumeStatistics:
        below = self._sum_below / max(self._sum_below + self._sum_above, _LEAST_SUM)
        if self._first is None:
            return VolumeStatistics(self._maximum, below=below)
        shift = self._sum / self._frames
        variance = np.maximum(self._squares / self._frames - shift * shift, 0)
        return VolumeStatistics(
            self._maximum,
            (self._first + shift).astype(np.float32),
            np.sqrt(variance).astype(np.float32),
            below,
        )
