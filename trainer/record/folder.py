"""The folder of a training: its files, its lock, its checkpoints.

===================  ==============================================================================
``checkpoints/``     ``step-00000100/`` and so on: everything needed to resume
``metrics.jsonl``    metrics of all steps
``config.yaml``      the resolved configuration, for people
``split.json``       training and validation runs, for people
``loss.png``         the loss curves
``tensorboard/``     event files
``wandb-id``         id of the W&B run
``.lock``            the process that trains
===================  ==============================================================================

Files are written under a temporary name and then renamed. Only checkpoints are needed to resume: a
resumed training writes the other files again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fmritok.errors import expected, wrong_usage
from fmritok.pipeline.store.locks.lock_file import HeldError, LockFile
from fmritok.trainer.errors import CheckpointError, ConfigError, TrainingError
from fmritok.trainer.faults import write_whole, writing
from fmritok.trainer.parallel.sharding import WholeTensors
from fmritok.trainer.pretrained.model_folder import is_model_folder
from fmritok.trainer.record.checkpoint import (
    METRICS,
    REPLACED,
    Checkpoint,
    is_checkpoint,
    write_checkpoint,
)
from fmritok.trainer.record.tensor_files import step_of

__all__ = ["TrainingFolder"]

_logger = logging.getLogger(__name__)


class TrainingFolder:
    """The folder of a training; it may not exist yet.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    config, split, metrics, picture, wandb_id, tensorboard : Path
        Paths inside.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.split = path / "split.json"
        self.metrics = path / METRICS
        self.picture = path / "loss.png"
        self.wandb_id = path / "wandb-id"
        self.tensorboard = path / "tensorboard"
        self._checkpoints = path / "checkpoints"
        self._lock: LockFile | None = None
        self._is_new = False

    def hold(self) -> None:
        """Lock the folder for this training, and create it if needed; a second call does nothing.

        Raises
        ------
        TrainingError
            If another training has locked the folder (its process, host and start are named), the
            folder cannot be written, or it is a file or a checkpoint.
        """
        if self._lock is not None:
            return
        real = Path(os.path.realpath(self.path))
        is_new = not real.exists()
        if not is_new and not real.is_dir():
            raise TrainingError(
                expected("Folder of the training", self.path, "a folder or a new path", "a file",
                         "Choose another one with --out.")
            )  # fmt: skip
        if is_checkpoint(real) or is_model_folder(real):
            got = "a checkpoint" if is_checkpoint(real) else "a model folder"
            raise TrainingError(
                expected("Folder of the training", self.path, f"a folder that is not {got}", got,
                         "Choose another one with --out. To start a new training from its "
                         "weights, give it as --init-from.")
            )  # fmt: skip
        lock, then = LockFile(real / ".lock"), "Or choose another one with --out."
        with writing("Folder of the training", self.path, then=then):
            try:
                lock.acquire()
            except HeldError as error:
                raise TrainingError(
                    expected("Folder of the training", real, "one training at a time",
                             f"another one that is running ({error})",
                             "Wait for it, stop it, or choose another folder with --out.")
                ) from error  # fmt: skip
        self._lock, self._is_new = lock, is_new
        with writing("Checkpoint", self._checkpoints, kind=CheckpointError):
            self._clean()

    def release(self) -> None:
        """Unlock the folder; remove it if this training created it and left it empty."""
        if self._lock is None:
            return
        self._lock.release()
        self._lock = None
        if self._is_new:
            with suppress(OSError):  # not empty
                self.path.rmdir()

    def refuse_used(self) -> None:
        """Refuse to start a new training in a folder with checkpoints.

        Raises
        ------
        ConfigError
        """
        if self.checkpoints():
            raise ConfigError(
                expected("Option", "--out", "a folder without checkpoints", self.path,
                         f"Go on with that training by --resume {self.path}, or choose another "
                         "one.")
            )  # fmt: skip

    def write(self, file: Path, text: str) -> None:
        """Write one of the small files atomically.

        Raises
        ------
        TrainingError
            If the disk refuses; an existing file is unchanged.
        """
        with writing("File", file, then="Then start again, or go on with --resume."):
            write_whole(file, text)

    def checkpoints(self) -> list[Path]:
        """Return the folders of the checkpoints, oldest first, including damaged ones."""
        found = [p for p in self._checkpoints.glob("step-*") if step_of(p) is not None]
        return sorted(found, key=lambda path: step_of(path) or 0)

    def has(self, checkpoint: Checkpoint) -> bool:
        """Tell whether a checkpoint belongs to this training."""
        return os.path.realpath(checkpoint.training) == os.path.realpath(self.path)

    def latest(self) -> Checkpoint:
        """Return the latest checkpoint.

        Raises
        ------
        CheckpointError
            If there is none, or its state is damaged.
        """
        return Checkpoint.read(self._last(self.checkpoints()))

    def last_whole(self) -> Checkpoint:
        """Return the latest undamaged checkpoint; warn about damaged later ones.

        Raises
        ------
        CheckpointError
            If there is none.
        """
        found = self.checkpoints()
        while True:
            last = self._last(found)
            try:
                whole = Checkpoint.read(last)
                whole.check()
                return whole
            except CheckpointError as error:
                if not last.exists():  # deleted by a training that is running
                    found = self.checkpoints()
                elif len(found) == 1:
                    raise
                else:
                    found = found[:-1]
                    _logger.warning("Going back to %s. %s", found[-1].name, error)

    def save(
        self, tensors: WholeTensors, state: Mapping[str, Any], texts: Mapping[str, bytes], *,
        keep: int,
    ) -> Path:  # fmt: skip
        """Write a checkpoint atomically, and delete all but the last ``keep``.

        Parameters
        ----------
        tensors : WholeTensors
        state : dict
            JSON-able, with ``step``.
        texts : dict of str to bytes
            Further files, by name.
        keep : int

        Returns
        -------
        Path
            The checkpoint's folder.

        Raises
        ------
        CheckpointError
            If the disk refuses (full, read-only, gone); earlier checkpoints are unchanged.
        """
        folder, step = self._checkpoints, state["step"]
        target = folder / f"step-{step:08d}"
        then = f"Then go on with --resume {self.path}, or start again if it has no checkpoint."
        with writing("Checkpoint", target, then=then, kind=CheckpointError):
            folder.mkdir(exist_ok=True)  # no parents: a deleted training folder is an error
            self._clean()
            write_checkpoint(target, tensors, state, texts)
            self._drop(step, keep)
        return target

    def drop(self, step: int, *, keep: int) -> None:
        """Delete the checkpoints after a step, and all but the last ``keep`` up to it.

        Checkpoints after the step are damaged: the training resumes from an earlier one.

        Raises
        ------
        CheckpointError
            If the disk refuses.
        """
        with writing("Checkpoints", self._checkpoints, kind=CheckpointError):
            self._drop(step, keep)

    def _drop(self, step: int, keep: int) -> None:
        found = self.checkpoints()
        past = [path for path in found if (step_of(path) or 0) <= step]
        for old in [*past[:-keep], *found[len(past) :]]:
            _remove(old)

    def _clean(self) -> None:
        """Finish or undo the renaming of checkpoints by a killed process."""
        for hidden in self._checkpoints.glob(".step-*"):
            place = self._checkpoints / hidden.name[1:].removesuffix(REPLACED)
            if hidden.name.endswith(REPLACED) and not place.exists():
                hidden.rename(place)
            else:
                shutil.rmtree(hidden, ignore_errors=True)

    def _last(self, checkpoints: list[Path]) -> Path:
        if checkpoints:
            return checkpoints[-1]
        next_step = "Check the path."
        if is_model_folder(self.path):
            next_step = (
                "A model folder has neither state nor metrics of a training: start a new one with "
                f"--init-from {self.path}."
            )
        elif self.path.suffix == ".safetensors" or list(self.path.glob("*.safetensors")):
            next_step = "For weights alone, start a new training with --init-from FILE."
        got = "no checkpoint in it" if self.path.is_dir() else "nothing"
        got = "a file" if self.path.is_file() else got
        wanted = "a folder that `fmritok train` wrote, or one of its checkpoints"
        error = CheckpointError(expected("Checkpoint", self.path, wanted, got, next_step))
        raise error if self.path.exists() else wrong_usage(error)


def _remove(folder: Path) -> None:
    """Delete a checkpoint: rename it first, readers never see a part of it."""
    with suppress(FileNotFoundError):  # already deleted
        hidden = folder.rename(folder.with_name(f".{folder.name}.removed"))
        shutil.rmtree(hidden, ignore_errors=True)  # leftovers: see _clean
