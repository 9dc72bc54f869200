"""Source of NIfTI volumes, streamed forward in blocks of frames."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.run_header import read_header
from fmritok.pipeline.sources.files import (
    HashedFile,
    check_claim,
    check_room,
    damage_named,
    open_binary,
)
from fmritok.pipeline.sources.whole import read_image, skip
from fmritok.quantities import counted
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["FRAMES_A_BLOCK", "VolumeSource"]

FRAMES_A_BLOCK = 16
_BYTES_AT_ONCE = 1 << 20
_GZIP_WINDOW = 31  # zlib's, with the header of gzip


class VolumeSource:
    """Frames of one NIfTI file, decompressed once.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``, possibly inside a zip file.
    mask : Path, optional
        Brain mask on the same grid. Voxels outside of it become 0.

    Raises
    ------
    RunError
        If the header is unreadable or claims more data than the file or memory holds, or the mask
        has another grid.
    """

    def __init__(self, path: Path, mask: Path | None = None) -> None:
        self.path = path
        self.header = read_header(path)
        shape = self.header.shape[:3]
        frame = math.prod(shape) * self.header.dtype.itemsize
        check_claim(path, self.header.offset + self.header.n_frames * frame)
        check_room(path, 4 * FRAMES_A_BLOCK * frame, f"{FRAMES_A_BLOCK} frames")
        self.space = VolumeSpace((shape[0], shape[1], shape[2]), self.header.affine)
        self.n_frames = self.header.n_frames
        self.to_space: SparseMap | None = None
        self.slope, self.intercept = self.header.slope, self.header.intercept
        self.source_sha256 = ""
        self.description = f", placed by its {self.header.transform}" + (", masked" if mask else "")
        self._outside = _outside(mask, self.space) if mask else None
        self._scales = self._outside is not None and not _holds(self.header.dtype, self._zero)
        if self._scales:
            self.slope, self.intercept = 1.0, 0.0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of blocks: that of the file, or float if the masked value 0 needs it."""
        return np.dtype(np.float32) if self._scales else self.header.dtype.newbyteorder("=")

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield stored values (n_frames, n_samples), to the file's last byte.

        Raises
        ------
        RunError
            If the file is cut off or damaged.
        """
        header = self.header
        frame_bytes = self.space.n_samples * header.dtype.itemsize
        done = 0
        with (
            damage_named(self.path, f"{counted(header.n_frames, 'whole frame')}", lambda: done),
            _tail_named(self.path),
            open_binary(self.path) as raw,
        ):
            file = HashedFile(raw, self.path)
            skip(file, header.offset)
            while done < header.n_frames:
                wanted = min(FRAMES_A_BLOCK, header.n_frames - done)
                data = file.read(wanted * frame_bytes)
                if len(data) < wanted * frame_bytes:
                    done += len(data) // frame_bytes
                    raise EOFError("the file ends early")
                yield self._values(np.frombuffer(data, header.dtype).reshape(wanted, -1))
                done += wanted
            self._finish(file, frame_bytes)
            self.source_sha256 = file.sha256

    def _values(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Convert stored values to the machine's byte order, and apply the mask."""
        if not self.header.dtype.isnative:
            block = block.astype(self.header.dtype.newbyteorder("="))
        if self._outside is None:
            return block
        if self._scales:
            block = block.astype(np.float32)
            block *= np.float32(self.header.slope)
            block += np.float32(self.header.intercept)
            block[:, self._outside] = 0
            return block
        block = block.copy()
        block[:, self._outside] = self._zero
        return block

    @property
    def _zero(self) -> float:
        """The stored value for an intensity of 0."""
        return -self.header.intercept / self.header.slope

    def _finish(self, file: HashedFile, frame_bytes: int) -> None:
        """Read to the end of the file, and refuse further frames."""
        if len(file.read(frame_bytes)) == frame_bytes:
            raise RunError(
                expected("Run file", self.path,
                         f"{counted(self.n_frames, 'frame')}, as its header says",
                         "1 or more after these",
                         "Copy it again from its source, or correct its header.")
            )  # fmt: skip
        file.finish()


@contextmanager
def _tail_named(path: Path) -> Iterator[None]:
    """Give a clear error for complete gzip data followed by other bytes."""
    try:
        yield
    except (OSError, EOFError) as error:
        if path.suffix != ".gz" or not _has_tail(path):
            raise
        raise RunError(
            expected("Run file", path, "nothing after its gzip data", "other bytes",
                     "Unpack it with `gzip -dc`, and compress the result again.")
        ) from error  # fmt: skip


def _has_tail(path: Path) -> bool:
    """Whether other bytes follow complete gzip data. Reads the file again."""
    with open_binary(path) as raw:
        member = zlib.decompressobj(_GZIP_WINDOW)
        while data := raw.read(_BYTES_AT_ONCE):
            while data:
                try:
                    member.decompress(data, _BYTES_AT_ONCE)
                except zlib.error:
                    return False
                data = member.unconsumed_tail
                if member.eof:
                    data = member.unused_data + raw.read(1)
                    if data and not data.startswith(b"\x1f"):
                        return True
                    member = zlib.decompressobj(_GZIP_WINDOW)
    return False


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a data type can represent a value: integers exactly, floats with rounding."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return value.is_integer() and limits.min <= value <= limits.max


def _outside(mask: Path, space: VolumeSpace) -> npt.NDArray[np.bool_]:
    header, values = read_image(mask, "brain mask")
    if header.shape != space.shape or not np.allclose(header.affine, space.affine, atol=1e-3):
        raise RunError(
            expected("Brain mask", mask, f"the grid of the run, {space.description}",
                     f"{'x'.join(map(str, header.shape))} voxels, placed by its {header.transform}",
                     "Give the run's own mask.")
        )  # fmt: skip
    if not values.any():
        raise RunError(
            expected("Brain mask", mask, "voxels in the brain", "nothing but 0",
                     "Give the run's own mask.")
        )  # fmt: skip
    return values.ravel(order="F") == 0
