"""Find a training, a checkpoint or weights by the path that a user gave."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fmritok.errors import expected
from fmritok.hub.snapshots import find_snapshot
from fmritok.trainer.errors import CheckpointError, ConfigError
from fmritok.trainer.pretrained.model_folder import ModelFolder, is_model_folder
from fmritok.trainer.record.checkpoint import Checkpoint, is_checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.tensor_files import load_weights

if TYPE_CHECKING:
    from fmritok.trainer.objectives.base import ObjectiveModule

__all__ = ["find_checkpoint", "find_trained", "find_weights", "init_weights", "training_of"]

_logger = logging.getLogger(__name__)


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


def find_trained(path: Path) -> Checkpoint | ModelFolder:
    """Return what holds an encoder: a checkpoint, the latest one of a training, or a model folder.

    Parameters
    ----------
    path : Path
        A checkpoint, the folder of a training, a model folder, or the id of a hub model that was
        fetched before. A folder of that name comes first.

    Raises
    ------
    CheckpointError
        If there is none, or it is damaged.
    """
    if not path.exists() and (snapshot := find_snapshot(path.as_posix())) is not None:
        path = snapshot
    return ModelFolder.read(path) if is_model_folder(path) else find_checkpoint(path)


def find_weights(path: Path) -> Path | Checkpoint | ModelFolder:
    """Return a file of weights, or what :func:`find_trained` returns.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if path.is_file():
        folder = path.parent
        return find_trained(folder) if is_checkpoint(folder) or is_model_folder(folder) else path
    weights = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if weights and not (is_checkpoint(path) or is_model_folder(path)):
        raise CheckpointError(
            expected("Weights", path, "a training, a checkpoint, or a model folder of "
                     "`fmritok export`", f"others ({weights[0].name})",
                     "Give the file, if it has all weights of this recipe; weights of other "
                     "programs need `fmritok import` first.")
        )  # fmt: skip
    return find_trained(path)


def init_weights(source: Path | Checkpoint | ModelFolder, model: ObjectiveModule) -> None:
    """Load weights found by :func:`find_weights`.

    A model folder has the weights of an encoder. They are loaded into the encoder that is trained
    and into the one that is used afterwards; what else the objective has stays new.

    Raises
    ------
    CheckpointError
        If they are damaged or do not fit the model.
    """
    if isinstance(source, ModelFolder):
        source.load_weights(model.encoder)
        if model.features is not model.encoder:
            source.load_weights(model.features)
        _logger.info("Only the encoder starts from %s: the rest of objective %s starts new",
                     source.folder, type(model).__name__)  # fmt: skip
    elif isinstance(source, Checkpoint):
        source.load_weights(model)
    else:
        load_weights(source, model)
