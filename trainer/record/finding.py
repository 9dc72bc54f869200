"""Find a training, a checkpoint or weights by the path that a user gave."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.record.checkpoint import Checkpoint, is_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.tensor_files import load_weights

__all__ = ["find_checkpoint", "find_weights", "init_weights", "training_of"]


def training_of(path: Path) -> TrainingFolder:
    """Return the folder of a training, given it or one of its checkpoints.

    Raises
    ------
    ConfigError
        If the checkpoint lies in no training's folder.
    """
    if not is_checkpoint(path):
        return TrainingFolder(path)
    parent = path.absolute().parent
    if parent.name != "checkpoints":
        raise ConfigError(
            expected("Option", "--out", f"a folder, because {path} lies outside of trainings",
                     "none", "Give one.")
        )  # fmt: skip
    return TrainingFolder(parent.parent)


def find_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint, given it or its training's folder (then the latest).

    Raises
    ------
    CheckpointError
        If there is none, or its state is damaged.
    """
    return Checkpoint.read(path) if is_checkpoint(path) else TrainingFolder(path).latest()


def find_weights(path: Path) -> Path | Checkpoint:
    """Return a file of weights, a checkpoint, or the latest checkpoint of a training.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if path.is_file() and not is_checkpoint(path.parent):
        return path
    return find_checkpoint(path.parent if path.is_file() else path)


def init_weights(source: Path | Checkpoint, model: nn.Module) -> None:
    """Load weights found by :func:`find_weights`.

    Raises
    ------
    CheckpointError
        If they are damaged or do not fit the model.
    """
    if isinstance(source, Checkpoint):
        source.load_weights(model)
    else:
        load_weights(source, model)
