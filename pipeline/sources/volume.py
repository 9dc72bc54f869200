"""NIfTI volumes, streamed forward in blocks of frames as the file stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import RunError, expected
from fmritok.pipeline.headers import read_header
from fmritok.pipeline.sources.files import (
    HashedFile,
    check_claim,
    check_room,
    damage_named,
    open_binary,
)
from fmritok.pipeline.sources.image import load_image
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["FRAMES_A_BLOCK", "VolumeSource"]

FRAMES_A_BLOCK = 16


class VolumeSource:
    """The frames of one NIfTI file, decompressed once.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``, possibly inside a zip file.
    mask : Path, optional
        Brain mask on the same grid: voxels outside of it become 0.

    Raises
    ------
    RunError
        If the header is unreadable or claims more than the file holds, or than memory, or the mask
        lies on another grid.
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
        self.description = ", masked" if mask else ""
        self._outside = _outside(mask, self.space) if mask else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.header.dtype.newbyteorder("=")

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
            damage_named(self.path, f"{header.n_frames} whole frames", lambda: done),
            open_binary(self.path) as raw,
        ):
            file = HashedFile(raw, self.path)
            file.read(header.offset)
            while done < header.n_frames:
                wanted = min(FRAMES_A_BLOCK, header.n_frames - done)
                data = file.read(wanted * frame_bytes)
                if len(data) < wanted * frame_bytes:
                    done += len(data) // frame_bytes
                    raise EOFError("the file ends early")
                block = np.frombuffer(data, header.dtype).reshape(wanted, -1)
                if not header.dtype.isnative:
                    block = block.astype(self.dtype)
                if self._outside is not None:
                    block = block.copy()
                    block[:, self._outside] = self._zero
                yield block
                done += wanted
            file.finish()
            self.source_sha256 = file.sha256

    @property
    def _zero(self) -> Any:
        """The stored value that means 0, as nearly as the file's type has it."""
        value = -self.intercept / self.slope
        return np.rint(value) if self.dtype.kind in "iu" else value


def _outside(mask: Path, space: VolumeSpace) -> npt.NDArray[np.bool_]:
    image = load_image(mask, "a readable mask")
    values = np.asarray(image.dataobj)
    if values.shape[:3] != space.shape or not np.allclose(image.affine, space.affine, atol=1e-3):
        raise RunError(
            expected("Brain mask", mask, f"the grid of the run, {space.description}",
                     f"{'x'.join(map(str, values.shape))} voxels", "Give the run's own mask.")
        )  # fmt: skip
    return values.reshape(values.shape[:3]).ravel(order="F") == 0
