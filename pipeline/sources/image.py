"""Small NIfTI images, read whole: masks and warps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from fmritok.pipeline.errors import RunError, expected
from fmritok.pipeline.headers import read_header
from fmritok.pipeline.sources.files import (
    HashedFile,
    check_claim,
    check_room,
    damage_named,
    open_binary,
)

__all__ = ["load_image"]


def load_image(path: Path, wanted: str) -> Any:
    """Return an image of nibabel; no more is read than its header tells of.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``, possibly inside a zip file.
    wanted : str
        What the image is, for errors.

    Raises
    ------
    RunError
        If it is no readable NIfTI file, or its header claims more than it holds or than memory.
    """
    import nibabel as nib

    with damage_named(path, wanted):
        header = read_header(path)
        size = math.prod(header.shape) * header.dtype.itemsize
        check_claim(path, header.offset + size)
        check_room(path, 4 * size, "values")
        with open_binary(path) as raw:
            file = HashedFile(raw, path)
            data = file.read(header.offset + size)
            file.finish()
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    is_second = 540 in (int.from_bytes(data[:4], order) for order in orders)
    try:
        image: Any = (nib.Nifti2Image if is_second else nib.Nifti1Image).from_bytes(data)
        image.get_fdata()  # here, where errors are named
    except Exception as error:  # nibabel raises many kinds
        raise RunError(
            expected("File", path, wanted, f"{type(error).__name__}: {error}",
                     "Copy the file again.")
        ) from error  # fmt: skip
    return image
