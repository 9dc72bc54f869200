"""The folder of a fine-tuning: finished folds, the fold at work, curves, weights.

======================  ===========================================================================
``finetune.yaml``       the resolved configuration, which is a recipe
``folds/``              predictions of each finished fold: the same command goes on after them
``curves/``             one row of each epoch, for each fold
``weights/``            with ``--keep-weights``: the best epoch's weights of each fold
``unfinished/``         checkpoint of the fold at work, as those of a training
``.lock``               the process that fine-tunes
======================  ===========================================================================

Every fold has a key: the checksum of all that decides its result. A file of another key is not
used, so other options in the same folder begin anew.
"""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fmritok.errors import expected
from fmritok.pipeline.store.documents.seal import canonical_json, sha256
from fmritok.pipeline.store.locks.lock_file import HeldError, LockFile
from fmritok.trainer.errors import CheckpointError, TrainingError
from fmritok.trainer.faults import write_whole, writing
from fmritok.trainer.parallel.sharding import WholeTensors
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.record.folder import TrainingFolder

__all__ = ["FinetuneFolder"]

_logger = logging.getLogger(__name__)
_FORMAT = "fmritok fold 1"
_AGAIN = "Then run the same command again: it goes on."


class FinetuneFolder:
    """The folder of a fine-tuning, locked while it is used.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TrainingError
        On entering: if another process fine-tunes in it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = LockFile(path / ".lock")

    def __enter__(self) -> FinetuneFolder:
        with writing("Folder", self.path, then="Or choose another one with --out."):
            try:
                self._lock.acquire()
            except HeldError as error:
                raise TrainingError(
                    expected("Folder", self.path, "one fine-tuning at a time",
                             f"another one that is running ({error})",
                             "Wait for it, or choose another folder with --out.")
                ) from error  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file atomically.

        Raises
        ------
        TrainingError
            If the disk refuses.
        """
        file = self.path / name
        with writing("File", file, then=_AGAIN):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content)

    def write_weights(self, fold: str, state: dict[str, Tensor], said: dict[str, str]) -> None:
        """Write the weights of a fold's best epoch as safetensors."""
        self.write(f"weights/{fold}.safetensors", save(state, said))

    def finish(self, fold: str, key: str, outcome: dict[str, Any]) -> None:
        """Write the outcome of a fold; its checkpoint is not needed any more."""
        tree = {"format": _FORMAT, "key": key, "outcome": outcome}
        tree["digest"] = sha256(canonical_json(tree))
        self.write(f"folds/{fold}.json", json.dumps(tree))
        self.drop(fold)

    def finished(self, fold: str, key: str) -> dict[str, Any] | None:
        """Return the outcome of a fold; None if it is of another key, damaged, or not there."""
        file = self.path / "folds" / f"{fold}.json"
        if not file.is_file():
            return None
        try:
            tree = json.loads(file.read_bytes())
            digest = tree.pop("digest")
            if tree["format"] != _FORMAT or digest != sha256(canonical_json(tree)):
                raise ValueError("it differs from its checksum")
            outcome: dict[str, Any] = tree["outcome"]
            return outcome if tree["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s cannot be used (%s): the fold is trained again", file, error)
            return None

    def begin(self, fold: str) -> None:
        """Remove what a fold of another key left."""
        for name in (f"folds/{fold}.json", f"curves/{fold}.jsonl", f"weights/{fold}.safetensors"):
            (self.path / name).unlink(missing_ok=True)

    def has_weights(self, fold: str) -> bool:
        """Tell whether the weights of a fold are kept."""
        return (self.path / f"weights/{fold}.safetensors").is_file()

    def save(
        self, fold: str, tensors: WholeTensors, state: dict[str, Any], texts: dict[str, bytes]
    ) -> None:
        """Write a checkpoint of the fold at work; ``state`` has its ``step`` and ``key``.

        Raises
        ------
        CheckpointError
            If the disk refuses.
        """
        place = self._unfinished(fold)
        with writing("Folder", place.path, then=_AGAIN):
            place.path.mkdir(parents=True, exist_ok=True)
        place.save(tensors, state, texts, keep=1)

    def unfinished(self, fold: str, key: str) -> Checkpoint | None:
        """Return the checkpoint of a fold; None if it is of another key, damaged, or not there."""
        place = self._unfinished(fold)
        if not place.checkpoints():
            return None
        try:
            found = place.last_whole()
        except CheckpointError as error:
            _logger.warning("%s The fold is begun again", error)
            found = None
        if found is None or found.state.get("key") != key:
            self.drop(fold)
            return None
        return found

    def drop(self, fold: str) -> None:
        """Remove the checkpoint of a fold."""
        shutil.rmtree(self._unfinished(fold).path, ignore_errors=True)
        with suppress(OSError):  # others are there
            (self.path / "unfinished").rmdir()

    def keep_only(self, folds: list[str]) -> None:
        """Remove what earlier commands with other options left of folds."""
        for kind, ending in (("folds", ".json"), ("curves", ".jsonl"), ("weights", ".safetensors")):
            for file in (self.path / kind).glob(f"*{ending}"):
                if file.name.removesuffix(ending) not in folds:
                    file.unlink()
        shutil.rmtree(self.path / "unfinished", ignore_errors=True)

    def _unfinished(self, fold: str) -> TrainingFolder:
        return TrainingFolder(self.path / "unfinished" / fold)
