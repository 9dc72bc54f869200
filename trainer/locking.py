"""One training at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fmritok.pipeline.errors import expected
from fmritok.pipeline.store.lock_file import HeldError, LockFile
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.faults import writing

__all__ = ["FolderLock"]


class FolderLock:
    """Holds the folder of a training, which is made if it is not there.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    TrainingError
        If another training holds the folder (its process, host and start are named), if the folder
        cannot be written, or if it is a file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._is_new = not self.folder.exists()
        self._is_held = False
        if not self._is_new and not self.folder.is_dir():
            raise TrainingError(
                expected("Folder of the training", folder, "a folder, or nothing yet", "a file",
                         "Choose another one with --out.")
            )  # fmt: skip
        self._lock = LockFile(self.folder / ".lock")
        with writing("Folder of the training", folder, then="Or choose another one with --out."):
            try:
                self._lock.acquire()
            except HeldError as error:
                raise TrainingError(
                    expected("Folder of the training", self.folder, "one training at a time",
                             f"another one that is running ({error})",
                             "Wait for it, stop it, or choose another folder with --out.")
                ) from error  # fmt: skip
        self._is_held = True

    def release(self) -> None:
        """Give the folder back; a folder that was made for nothing is removed."""
        if not self._is_held:
            return
        self._is_held = False
        self._lock.release()
        if self._is_new:
            with suppress(OSError):  # not empty
                self.folder.rmdir()
