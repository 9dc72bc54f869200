"""One training at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from datetime import datetime
from io import FileIO
from pathlib import Path

from fmritok.pipeline.errors import expected
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.faults import writing

__all__ = ["FolderLock"]

_NAME = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_logger = logging.getLogger(__name__)


class FolderLock:
    """Holds the folder of a training, which is made if it is not there.

    The system drops the lock when the process ends, even if it is killed; the file ``.lock``, which
    says who holds it, is then left behind and does no harm. (filelock is not used here: it leaves
    its file behind always, and some releases empty it when somebody else asks for the lock.)

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
        self._file: FileIO | None = None
        if not self._is_new and not self.folder.is_dir():
            raise TrainingError(
                expected("Folder of the training", folder, "a folder, or nothing yet", "a file",
                         "Choose another one with --out.")
            )  # fmt: skip
        with writing("Folder of the training", folder, then="Or choose another one with --out."):
            while self._file is None:
                self._file = self._try()

    def release(self) -> None:
        """Give the folder back; a folder that was made for nothing is removed."""
        if self._file is None:
            return
        with suppress(OSError):
            if self._is_ours(self._file):  # while it is locked: nobody else can hold it
                (self.folder / _NAME).unlink()
        self._file.close()
        self._file = None
        if self._is_new:
            with suppress(OSError):  # not empty
                self.folder.rmdir()

    def _try(self) -> FileIO | None:
        """Lock the file; None if another training removed it meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if self.folder.exists():
                raise
            return None
        file = FileIO(descriptor, "r+")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _logger.warning(
                    "%s: its file system has no locks; make sure that no other training writes "
                    "there", self.folder,
                )  # fmt: skip
            else:
                holder = _read_holder(file)
                file.close()
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise TrainingError(
                    expected("Folder of the training", self.folder, "one training at a time",
                             f"another one that is running ({holder})",
                             "Wait for it, stop it, or choose another folder with --out.")
                ) from error  # fmt: skip
        if not self._is_ours(file):
            file.close()
            return None
        _write_holder(file)
        return file

    def _is_ours(self, file: FileIO) -> bool:
        """Tell whether an open file is still the one that others find by its name."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.folder / _NAME))
        except FileNotFoundError:
            return False


def _write_holder(file: FileIO) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    with suppress(OSError):  # it only informs; a full disk is found out by what must be written
        file.truncate(0)
        file.seek(0)
        file.write(json.dumps(holder).encode())


def _read_holder(file: FileIO) -> str:
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which process"
