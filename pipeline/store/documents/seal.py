"""Sealed documents: the ``zarr.json`` of the root and of each group, with the checksums of files.

A document's attributes hold a *seal*: the sha256 of every file that no completion record covers
(tables, static arrays, metadata), and a digest of the document itself. The tables that are in force
are named there too. One atomic write of the document therefore replaces tables and seal together,
and a reader sees either all of the old state or all of the new one.

The metadata of arrays that grow with the store are sealed without their length. A document names
the smallest length; a longer array is valid.
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

__all__ = [
    "Document", "Growing", "array_document", "canonical_json", "check_files", "exists_document",
    "growing_digest", "read_document", "read_sealed", "sha256", "write_document",
    "zarr_group",
]  # fmt: skip

_METADATA = "zarr.json"
#: Attempts to read: tables may be replaced meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Growing:
    """What a document says of an array that grows along its first axis.

    Attributes
    ----------
    length : int
        Rows that the store needs.
    sha256 : str
        Digest of the array's metadata without its length.
    """

    length: int
    sha256: str


@dataclass(frozen=True)
class Document:
    """A group's ``zarr.json`` as it was read and found intact.

    Attributes
    ----------
    path : str
        The group's path in the store; empty for the root.
    attributes : dict
        Without the seal.
    files : dict of str to str
        Path below the group to sha256 of the file.
    growing : dict of str to Growing
        By the name of the array.
    """

    path: str
    attributes: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    growing: dict[str, Growing] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """Return the key in the store of a file below the group."""
        return f"{self.path}/{name}" if self.path else name


def zarr_group(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the metadata of a zarr group."""
    return canonical_json(_zarr_group(attributes or {}))


def canonical_json(value: object) -> bytes:
    """Serialize in the one way that digests are taken of."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    """Return the hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def growing_digest(metadata: Mapping[str, Any]) -> str:
    """Return the digest of an array's metadata without its length."""
    return sha256(canonical_json({**metadata, "shape": metadata["shape"][1:]}))


def exists_document(location: Location, path: str) -> bool:
    """Tell whether a group was created to its end: its document is written last."""
    return location.exists(f"{path}/{_METADATA}" if path else _METADATA)


def write_document(location: Location, document: Document) -> None:
    """Replace a group's document, and with it the state of the group, in one atomic write."""
    seal: dict[str, Any] = {
        "files": dict(document.files),
        "growing": {name: vars(one) for name, one in document.growing.items()},
    }
    whole = _zarr_group({**document.attributes, "seal": seal})
    seal["digest"] = sha256(canonical_json(whole))
    location.write(document.key(_METADATA), canonical_json(whole))


def read_document(location: Location, path: str) -> Document:
    """Read a group's document.

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
    """Read a group's document and all files that it seals.

    Returns
    -------
    document : Document
    files : dict of str to bytes
        By their path below the group; of arrays that grow, ``NAME/zarr.json``.

    Raises
    ------
    StoreError
        If the document or one of the files is damaged; the file is named.
    """
    for attempt in range(_ATTEMPTS):
        document = read_document(location, path)
        files = _read_files(location, document)
        try:
            check_files(location, document, files)
        except StoreError:
            # Damage stays; a table that was replaced meanwhile has another document.
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
        For the first one that is missing or differs.
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
    """Return the metadata of an array that grows, compared with the seal.

    Raises
    ------
    StoreError
        If they are missing or differ, or the array is shorter than the store needs, or laid out
        in another way than fmritok's.
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
        raise _damaged(location, key, f"an array of {sealed.length} rows", f"one of {length}")
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
                 "Run `fmritok verify`, which names all damage; --drop makes tables of runs again "
                 "and has damaged runs redone. Restore other files from a copy.")
    )  # fmt: skip
