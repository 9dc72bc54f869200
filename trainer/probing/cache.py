"""Features of frozen encoders on disk, found by the hash of all that decides them.

An entry is an array (``HASH.npy``) and its key and checksum (``HASH.json``, written last). Any
entry may be deleted. One that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.faults import write_whole, writing

__all__ = ["FeatureCache", "default_folder"]

_logger = logging.getLogger(__name__)
_THEN = "Or choose another folder with --cache."


def default_folder() -> Path:
    """Return ``$FMRITOK_CACHE/features``, by default below ``~/.cache/fmritok``."""
    root = os.environ.get("FMRITOK_CACHE")
    if root is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "fmritok" / "features"
    return Path(root) / "features"


class FeatureCache:
    """A folder of features.

    Parameters
    ----------
    folder : Path
        Made when the first features are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: Mapping[str, Any]) -> npt.NDArray[Any] | None:
        """Return the features of a key, mapped from disk; None if they are not there, or damaged.

        Damage is logged.
        """
        file = self._file(key)
        try:
            entry = json.loads(file.with_suffix(".json").read_text())
            if entry["key"] == json.loads(json.dumps(key)) and entry["sha256"] == _sha256(file):
                found: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
                return found
            reason = "another content than was written"
        except FileNotFoundError:
            if not file.exists():
                return None
            reason = "no record of its key and checksum"
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = str(error)
        _logger.warning("%s is damaged (%s): features are computed again", file, reason)
        return None

    @contextmanager
    def filling(
        self, entries: Sequence[tuple[Mapping[str, Any], tuple[int, ...], str]]
    ) -> Iterator[list[npt.NDArray[Any]]]:
        """Give arrays of zeros to be filled; they are entries once the block has ended.

        Parameters
        ----------
        entries : sequence of (key, shape, dtype)

        Raises
        ------
        TrainingError
            If the disk does not take them.
        """
        partial: list[Path] = []
        try:
            with writing("Features", self.folder, then=_THEN):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._require_space(entries)
                arrays: list[npt.NDArray[Any]] = []
                for key, shape, dtype in entries:
                    partial.append(self._file(key).with_suffix(f".{os.getpid()}.partial"))
                    arrays.append(_new_array(partial[-1], shape, dtype))
            yield arrays
            with writing("Features", self.folder, then=_THEN):
                for array, file, (key, *_) in zip(arrays, partial, entries, strict=True):
                    if isinstance(array, np.memmap):
                        array.flush()
                    entry = {"key": key, "sha256": _sha256(file)}
                    final = self._file(key)
                    final.with_suffix(".json").unlink(missing_ok=True)
                    file.replace(final)
                    write_whole(final.with_suffix(".json"), json.dumps(entry))
        finally:
            for file in partial:
                with suppress(OSError):
                    file.unlink(missing_ok=True)

    def _file(self, key: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:40]}.npy"

    def _require_space(
        self, entries: Sequence[tuple[Mapping[str, Any], tuple[int, ...], str]]
    ) -> None:
        needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for _, shape, dtype in entries)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise TrainingError(
                expected("Features", self.folder, f"{needed / 1e9:,.1f} GB of space",
                         f"{free / 1e9:,.1f} GB", "Free space, choose another folder with --cache, "
                         "or fewer windows with --crops.")
            )  # fmt: skip


def _new_array(file: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Map a new file; its space is reserved, as a full disk would kill the process later."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, max(file.stat().st_size, 1))
    mapped: npt.NDArray[Any] = array
    return mapped


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
