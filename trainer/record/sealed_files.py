"""Files of a folder that are compared with their sha256 before they are read.

A JSON document names the checksums, and has its own digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fmritok.pipeline.store.documents.seal import canonical_json, sha256
from fmritok.trainer.errors import CheckpointError

__all__ = ["SealedFiles", "file_sha256", "fits_digest", "with_digest"]


class SealedFiles:
    """Files of a folder; each is compared with its checksum the first time it is used.

    Parameters
    ----------
    folder : Path
    digests : dict of str to str, or None
        sha256 of each file, by name. None: the files have no checksums.
    sealed_by : str
        File with the checksums, for messages.
    error : callable
        Makes the error of a damaged file from its path, what was expected, and what was found.
    """

    def __init__(
        self, folder: Path, digests: Mapping[str, str] | None, sealed_by: str,
        error: Callable[[Path, str, object], CheckpointError],
    ) -> None:  # fmt: skip
        self.folder = folder
        self._digests, self._sealed_by, self._error = digests, sealed_by, error
        self._compared: set[str] = set()

    def path(self, name: str) -> Path:
        """Return the path of a file that is whole.

        Raises
        ------
        CheckpointError
            If the file is missing, cannot be read, or differs from its checksum.
        """
        file = self.folder / name
        if name in self._compared:
            return file
        if not file.is_file():
            raise self._error(file, "a file", "nothing")
        if self._digests is not None:
            try:
                found = file_sha256(file)
            except OSError as error:
                raise self._error(file, "a file that can be read", error.strerror) from error
            if found != self._digests.get(name):
                raise self._error(file, f"the content that {self._sealed_by} names", "another")
        self._compared.add(name)
        return file

    def sha256(self, name: str) -> str:
        """Return the checksum of a file that is whole."""
        file = self.path(name)
        return file_sha256(file) if self._digests is None else self._digests[name]


def file_sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with its digest."""
    return {**document, "digest": sha256(canonical_json(document))}


def fits_digest(document: Mapping[str, Any]) -> bool:
    """Tell whether a document is as :func:`with_digest` returned it."""
    body = {name: value for name, value in document.items() if name != "digest"}
    return bool(document.get("digest") == sha256(canonical_json(body)))
