"""Read the frames of NIfTI runs: once, forward, in blocks, onto the canonical grid."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import RunError, expected
from fmritok.pipeline.headers import read_header
from fmritok.pipeline.placement import Placement
from fmritok.pipeline.scratch import ScratchArray
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.intensity import VolumeStatistics

__all__ = ["RunVolumes"]

_FRAMES_A_BLOCK = 8


class RunVolumes:
    """The volumes of one run on the canonical grid; its file is decompressed once.

    The first pass checks every frame, gathers statistics and spools the placed frames into a
    scratch file; later passes read that.

    Parameters
    ----------
    path : Path
    voxel_statistics : bool
        Whether each voxel's mean and standard deviation are wanted.
    scratch : Path, optional
        Folder for the spool (1.8 MB a frame for int16 files).

    Raises
    ------
    RunError
        If the file is cut off or damaged, holds NaN, or never changes.
    """

    def __init__(
        self, path: Path, *, voxel_statistics: bool = False, scratch: Path | None = None
    ) -> None:
        self.path = path
        self.header = read_header(path)
        self.placement = Placement(self.header.affine, self.header.shape[:3])  # type: ignore[arg-type]
        self.source_sha256 = ""
        # With an intercept, the padding's 0 has no stored value: spool what it means instead.
        self._spool_scaled = not (self.placement.exact and self.header.intercept == 0)
        stored = self.header.dtype.newbyteorder("=")
        self._spool = ScratchArray(
            (self.n_frames, *SHAPE), np.float32 if self._spool_scaled else stored, scratch
        )
        self.statistics = self._read(voxel_statistics)

    def __enter__(self) -> RunVolumes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spool.close()

    @property
    def n_frames(self) -> int:
        """Frames of the run."""
        return self.header.n_frames

    def blocks(
        self, frames: int = _FRAMES_A_BLOCK
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield consecutive frames.

        Yields
        ------
        first : int
            Index of the block's first frame.
        volumes : np.ndarray of shape (<= frames, 96, 96, 96), float32
            Intensities as the file means them (slope and intercept applied).
        """
        for first in range(0, self.n_frames, frames):
            yield first, self._scaled(self._spool[first : first + frames])

    def _read(self, voxel_statistics: bool) -> VolumeStatistics:
        gathered = _Gathered(voxel_statistics)
        done = 0
        for stored in self._stored_blocks():
            placed = self.placement.place(
                self._apply_slope(stored) if self._spool_scaled else stored
            )
            self._spool[done : done + len(placed)] = placed
            gathered.add(self._scaled(placed), done, self.path)
            done += len(placed)
        return gathered.statistics(self.path)

    def _apply_slope(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = stored.astype(np.float32)
        if self.header.slope != 1:
            values *= np.float32(self.header.slope)
        if self.header.intercept:
            values += np.float32(self.header.intercept)
        return values

    def _scaled(self, placed: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return placed.astype(np.float32) if self._spool_scaled else self._apply_slope(placed)

    def _stored_blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield blocks (n, x, y, z) in the file's own dtype; check the file to its last byte."""
        header = self.header
        frame_bytes = int(np.prod(header.shape[:3])) * header.dtype.itemsize
        done = 0
        try:
            with self.path.open("rb") as raw:
                hashing = _HashingReader(raw)
                file = _decompressed(hashing, self.path)
                _skip(file, header.offset)
                while done < header.n_frames:
                    wanted = min(_FRAMES_A_BLOCK, header.n_frames - done)
                    data = _read_fully(file, wanted * frame_bytes)
                    if len(data) < wanted * frame_bytes:
                        done += len(data) // frame_bytes
                        raise EOFError("the file ends early")
                    block = np.frombuffer(data, header.dtype)
                    yield block.reshape(wanted, *header.shape[2::-1]).transpose(0, 3, 2, 1)
                    done += wanted
                while file.read(1 << 20):  # to the end, where gzip keeps its checksum
                    pass
                self.source_sha256 = hashing.digest.hexdigest()
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise RunError(
                expected("Run file", self.path, f"{header.n_frames} whole frames",
                         f"{done} and then {type(error).__name__}: {error}",
                         "Copy or download it again, then rerun the same command.")
            ) from error  # fmt: skip


class _Gathered:
    """Statistics and checks over the frames of one run, block by block."""

    def __init__(self, voxel_statistics: bool) -> None:
        self._voxels = voxel_statistics
        self._first: npt.NDArray[np.float32] | None = None
        self._maximum = -np.inf
        self._changes = False
        self._frames = 0

    def add(self, volumes: npt.NDArray[np.float32], first: int, path: Path) -> None:
        highest = volumes.reshape(len(volumes), -1).max(axis=1)
        lowest = volumes.reshape(len(volumes), -1).min(axis=1)
        finite = np.isfinite(highest) & np.isfinite(lowest)
        if not finite.all():
            frame = first + int(np.argmin(finite))
            bad = int((~np.isfinite(volumes[frame - first])).sum())
            raise RunError(
                expected(f"Frame {frame} of", path, "finite intensities",
                         f"{bad} NaN or infinite voxels",
                         "Mask or repair the run; voxels outside the brain should be 0.")
            )  # fmt: skip
        self._maximum = max(self._maximum, float(highest.max()))
        if self._first is None:
            self._first = volumes[0].copy()
            if self._voxels:
                self._sum = np.zeros(volumes.shape[1:], np.float64)
                self._squares = np.zeros(volumes.shape[1:], np.float64)
        self._changes = self._changes or bool((volumes != self._first).any())
        if self._voxels:
            # Shifted by the first frame, the sums keep their digits.
            for volume in volumes:
                shifted = (volume - self._first).astype(np.float64)
                self._sum += shifted
                self._squares += shifted * shifted
        self._frames += len(volumes)

    def statistics(self, path: Path) -> VolumeStatistics:
        if not self._changes or self._maximum <= 0:
            got = (
                "the same volume in every frame" if self._maximum > 0
                else "nothing above 0 in any frame"
            )  # fmt: skip
            raise RunError(
                expected("Run", path, "positive intensities that vary over time", got,
                         "Check the preprocessing of this run.")
            )  # fmt: skip
        if not self._voxels or self._first is None:
            return VolumeStatistics(self._maximum)
        shift = self._sum / self._frames
        variance = np.maximum(self._squares / self._frames - shift * shift, 0)
        return VolumeStatistics(
            self._maximum,
            (self._first + shift).astype(np.float32),
            np.sqrt(variance).astype(np.float32),
        )


class _HashingReader(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def _decompressed(raw: io.RawIOBase, path: Path) -> Any:
    buffered = io.BufferedReader(raw, 1 << 20)
    if path.suffix != ".gz":
        return buffered
    from isal import igzip

    return igzip.IGzipFile(fileobj=buffered, mode="rb")


def _read_fully(file: Any, size: int) -> bytes:
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _skip(file: Any, size: int) -> None:
    if len(_read_fully(file, size)) < size:
        raise EOFError("the file ends within its header")
