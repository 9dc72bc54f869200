"""Sealed documents: the ``zarr.json`` of the root and of each group, with checksums of files.

The attributes of a document contain a *seal*: the sha256 of every file without a completion record
(tables, static arrays, metadata), and a digest of the document itself. They also name the tables in
force. One atomic write of the document replaces tables and seal together. A reader sees either the
old state or the new one.

Growing arrays are sealed without their length. The document gives their smallest length; longer
arrays are valid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.chunks.layout import parse_layout
from fmritok.pipeline.store.documents.checks import check_attributes, check_seal, parse_json
from fmritok.pipeline.store.location import Location
from fmritok.quantities import counted

__all__ = [
    "Document", "Growing", "array_document", "canonical_json", "check_files", "exists_document",
    "growing_digest", "read_document", "read_sealed", "sha256", "write_document",
    "zarr_group",
]  # fmt: skip

_METADATA = "zarr.json"
#: Attempts to read a document and its files. A writer may replace tables in between.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Growing:
    """Seal of an array that grows along its first axis.

    Attributes
    ----------
    length : int
        Smallest valid number of rows.
    sha256 : str
        Digest of the array's metadata without its length.
    """

    length: int
    sha256: str


@dataclass(frozen=True)
class Document:
    """Content of an intact ``zarr.json`` of a group.

    Attributes
    ----------
    path : str
        Path of the group in the store; empty for the root.
    attributes : dict
        Attributes without the seal.
    files : dict of str to str
        sha256 of each sealed file, by path below the group.
    growing : dict of str to Growing
        Seals of growing arrays, by name.
    """

    path: str
    attributes: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    growing: dict[str, Growing] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """Return the key in the store of a file of the group."""
        return f"{self.path}/{name}" if self.path else name


def zarr_group(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the metadata of a zarr group."""
    return canonical_json(_zarr_group(attributes or {}))


def canonical_json(value: object) -> bytes:
    """Serialize to canonical JSON, the input of digests."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    """Return the hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def growing_digest(metadata: Mapping[str, Any]) -> str:
    """Return the digest of an array's metadata without its length."""
    return sha256(canonical_json({**metadata, "shape": metadata["shape"][1:]}))


def exists_document(location: Location, path: str) -> bool:
    """Whether a group is complete. Its document is written last."""
    return location.exists(f"{path}/{_METADATA}" if path else _METADATA)


def write_document(location: Location, document: Document) -> None:
    """Replace the document of a group by one atomic write."""
    seal: dict[str, Any] = {
        "files": dict(document.files),
        "growing": {name: vars(one) for name, one in document.growing.items()},
    }
    whole = _zarr_group({**document.attributes, "seal": seal})
    seal["digest"] = sha256(canonical_json(whole))
    location.write(document.key(_METADATA), canonical_json(whole))


def read_document(location: Location, path: str) -> Document:
    """Read the document of a group.

    Raises
    ------
    StoreError
        If it is missing, cannot be read, or differs from its seal.
    """
    key = f"{path}/{_METADATA}" if path else _METADATA
    what = f"of token group {path}" if path else "of the store"
    try:
        data = location.read(key)
    except FileNotFoundError as error:
        raise _damaged(location, key, f"metadata {what}", "nothing there") from error
    try:
        whole = parse_json(data)
        intact = canonical_json(whole) == data
        digest = whole["attributes"]["seal"].pop("digest")
        intact = intact and sha256(canonical_json(whole)) == digest
        seal = whole["attributes"].pop("seal")
        document = Document(
            path,
            whole["attributes"],
            dict(seal["files"]),
            {name: Growing(**one) for name, one in seal["growing"].items()},
        )
        if intact:
            check_seal(seal["files"], seal["growing"])
            check_attributes(path, document.attributes, document.growing)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        got = error if isinstance(error, ValueError) else "JSON without a seal"
        raise _damaged(location, key, f"metadata {what}", got) from error
    if not intact:
        raise _damaged(location, key, f"metadata {what} that match their seal", "others")
    return document


def read_sealed(location: Location, path: str) -> tuple[Document, dict[str, bytes]]:
    """Read the document of a group and all files in its seal.

    Returns
    -------
    document : Document
    files : dict of str to bytes
        Files by path below the group; ``NAME/zarr.json`` of growing arrays.

    Raises
    ------
    StoreError
        If the document or a file is damaged. The error names the file.
    """
    for attempt in range(_ATTEMPTS):
        document = read_document(location, path)
        files = _read_files(location, document)
        try:
            check_files(location, document, files)
        except StoreError:
            # A changed document means that a writer replaced tables: read again.
            if attempt + 1 < _ATTEMPTS and read_document(location, path) != document:
                continue
            raise
        return document, files
    raise AssertionError("the last attempt returns or raises")


def check_files(location: Location, document: Document, files: Mapping[str, bytes]) -> None:
    """Compare files with the seal of their group.

    Raises
    ------
    StoreError
        If a file is missing or differs. The error names the first one.
    """
    for name, wanted in document.files.items():
        if name not in files:
            raise _damaged(location, document.key(name), "the file that is sealed", "nothing there")
        if sha256(files[name]) != wanted:
            raise _damaged(location, document.key(name), "the content that is sealed", "another")
    for name in document.growing:
        array_document(location, document, name, files.get(f"{name}/{_METADATA}"))


def array_document(
    location: Location, document: Document, name: str, data: bytes | None
) -> dict[str, Any]:
    """Return the metadata of a growing array after comparison with its seal.

    Raises
    ------
    StoreError
        If the metadata are missing or differ, the array is too short, or its layout is not
        fmritok's.
    """
    sealed, key = document.growing[name], document.key(f"{name}/{_METADATA}")
    if data is None:
        raise _damaged(location, key, "metadata of an array", "nothing there")
    try:
        metadata: dict[str, Any] = parse_json(data)
        length = parse_layout(metadata).shape[0]
        intact = canonical_json(metadata) == data and growing_digest(metadata) == sealed.sha256
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(location, key, "metadata of an array", "something else") from error
    if not intact:
        raise _damaged(location, key, "metadata that match their seal", "others")
    if length < sealed.length:
        raise _damaged(
            location, key, f"an array of {counted(sealed.length, 'row')}", f"one of {length}"
        )
    return metadata


def _read_files(location: Location, document: Document) -> dict[str, bytes]:
    names = [*document.files, *(f"{name}/{_METADATA}" for name in document.growing)]
    found = location.read_many([document.key(name) for name in names])
    return {name: found[key] for name in names if (key := document.key(name)) in found}


def _zarr_group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"attributes": dict(attributes), "node_type": "group", "zarr_format": 3}


def _damaged(location: Location, key: str, wanted: str, got: object) -> StoreError:
    return StoreError(
        expected("Store file", f"{location}/{key}", wanted, got,
                 "Run `fmritok verify`, which lists all damage. With --drop, it rebuilds tables of "
                 "runs and deletes damaged runs. Restore other files from a copy.")
    )  # fmt: skip
