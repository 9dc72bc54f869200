"""First bytes of a NIfTI file: decompression, byte order, and the fields that nibabel unpacks."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.files import open_binary, read_fully
from fmritok.quantities import counted

__all__ = ["HEADER_BYTES", "FileStart", "file_start", "raw_header", "refusal"]

#: Bytes of a NIfTI-2 header, which is longer than a NIfTI-1 header.
HEADER_BYTES = 540
_GZIP = b"\x1f\x8b"
_MAGIC = {348: b"n+1", 540: b"n+2"}


@dataclass(frozen=True)
class FileStart:
    """The first bytes of a file, decompressed.

    Attributes
    ----------
    content : bytes
    size : int, optional
        Size of the whole file, bytes; None if it is compressed or in a zip file.
    """

    content: bytes
    size: int | None


def file_start(path: Path, n_bytes: int) -> FileStart:
    """Read the first bytes of a file, decompressed if its name ends in ``.gz``.

    Raises
    ------
    RunError
        If the extension and the compression of the file do not match.
    """
    is_named_gzip = path.suffix == ".gz"
    with open_binary(path) as raw:
        if not is_named_gzip:
            start = FileStart(read_fully(raw, n_bytes), _size(raw))
            if start.content[:2] == _GZIP:
                raise refusal(
                    path,
                    "a file that is not compressed, as its name says",
                    "gzip data",
                    f"Rename it to {path.name}.gz.",
                )
            return start
        try:
            with gzip.open(raw, "rb") as file:
                return FileStart(read_fully(file, n_bytes), None)
        except gzip.BadGzipFile:
            pass
    with open_binary(path) as raw:
        first = raw.read(4)
    if first[:2] != _GZIP and _byte_order(first):
        raise refusal(
            path,
            "gzip data, as its name says",
            "a NIfTI file that is not compressed",
            f"Rename it to {path.stem}.",
        )
    raise refusal(path, "a readable NIfTI header", "no gzip data")


def raw_header(content: bytes, path: Path) -> Any:
    """Parse the fields of a NIfTI header with nibabel.

    Parameters
    ----------
    content : bytes
        The first :data:`HEADER_BYTES` of a file, or all of a shorter one.
    path : Path
        File name for errors.

    Returns
    -------
    nibabel.Nifti1Header or nibabel.Nifti2Header

    Raises
    ------
    RunError
    """
    order = _byte_order(content)
    if order is None:
        raise refusal(
            path,
            "a readable NIfTI header",
            "other data" if len(content) >= 348 else f"{counted(len(content), 'byte')} in all",
        )
    length = int.from_bytes(content[:4], "little" if order == "<" else "big")
    if len(content) < length:
        raise refusal(
            path,
            f"a readable NIfTI header of {length} bytes",
            f"{counted(len(content), 'byte')} in all",
        )
    kind = nib.Nifti2Header if length == 540 else nib.Nifti1Header
    header: Any = kind(content[:length], order, check=False)  # type: ignore[no-untyped-call]
    magic = bytes(header["magic"].item())
    if magic[:3] != _MAGIC[length]:
        got = {b"ni1": "the header of a pair of files", b"ni2": "the header of a pair of files",
               b"": "an ANALYZE header, which has no position of voxels"}  # fmt: skip
        raise refusal(
            path,
            "a NIfTI file of header and data",
            got.get(magic[:3], "an unknown kind of header"),
            "Convert it to one .nii.gz file.",
        )
    return header


def _size(raw: IO[bytes]) -> int | None:
    try:
        return os.fstat(raw.fileno()).st_size
    except (OSError, AttributeError):
        return None


def _byte_order(start: bytes) -> str | None:
    """Detect the byte order from the first field, the length of the header."""
    for order, name in (("<", "little"), (">", "big")):
        if int.from_bytes(start[:4], name) in _MAGIC:  # type: ignore[arg-type]
            return order
    return None


def refusal(
    path: Path,
    wanted: str,
    got: object,
    next_step: str = "Copy the file again from its source.",
) -> RunError:
    """Make the error of a file whose header is refused."""
    return RunError(expected("File", path, wanted, got, next_step))
