"""Parse GIFTI files. No array is decompressed beyond the size given by its dimensions."""

from __future__ import annotations

import base64
import io
import math
import zlib
from pathlib import Path
from typing import Any

from fmritok.pipeline.sources.files import check_room
from fmritok.quantities import counted

__all__ = ["parse_gifti"]


def parse_gifti(data: bytes, path: Path) -> Any:
    """Parse the bytes of a GIFTI file to a nibabel image.

    Parameters
    ----------
    data : bytes
    path : Path
        File name for errors.

    Raises
    ------
    RunError
        If an array is larger than memory.
    ValueError
        If the decompressed size of an array does not fit its dimensions. nibabel and expat raise
        further exceptions for damaged files.
    """
    from nibabel.gifti.parse_gifti_fast import GiftiImageParser
    from nibabel.gifti.util import gifti_encoding_codes
    from nibabel.nifti1 import data_type_codes

    class Bounded(GiftiImageParser):
        def flush_chardata(self) -> None:
            if self.write_to == "Data" and self._char_blocks is not None:
                array: Any = self.da
                dtype: Any = data_type_codes.dtype[array.datatype]
                size = math.prod(array.dims) * dtype.itemsize
                check_room(path, size, "arrays")
                if gifti_encoding_codes.label[array.encoding] == "B64GZ":
                    _refuse_other_size("".join(self._char_blocks), size)
            super().flush_chardata()  # type: ignore[no-untyped-call]

    parser = Bounded(mmap=False)  # type: ignore[no-untyped-call]
    parser.parse(fptr=io.BytesIO(data))
    return parser.img


def _refuse_other_size(text: str, size: int) -> None:
    """Check the decompressed size of an array; decompress at most one byte too many."""
    found = len(zlib.decompressobj().decompress(base64.b64decode(text), size + 1))
    if found != size:
        more = "more than " if found > size else ""
        raise ValueError(
            f"an array of {more}{counted(min(found, size), 'byte')}, where it has {size}"
        )
