"""Export the encoder of a training as a folder for others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.features import FrozenEncoder, load_frozen
from fmritok.trainer.faults import write_whole, writing
from fmritok.trainer.pretrained.card import model_card
from fmritok.trainer.pretrained.facts import facts_of
from fmritok.trainer.pretrained.model_folder import (
    CARD,
    ModelFolder,
    is_model_folder,
    write_model_folder,
)
from fmritok.trainer.record.finding import find_trained

__all__ = ["card_of", "check_target", "export", "write_frozen"]


def export(training: Path, out: Path, *, license: str | None = None) -> ModelFolder:
    """Write the encoder of a training to a folder that needs neither store nor training.

    Parameters
    ----------
    training : Path
        Folder of a training, one of its checkpoints, or a model folder.
    out : Path
        A new or empty folder, or an earlier model folder, which is replaced.
    license : str, optional
        Identifier of the weights' licence. Default: that of a model folder, else none.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is damaged.
    ConfigError
        If ``out`` has other files.
    TrainingError
        If the disk refuses.
    """
    check_target(out)
    found = find_trained(training)
    if license is None and isinstance(found, ModelFolder):
        license = found.license
    write_frozen(load_frozen(found.folder), facts_of(found), out, license=license)
    return ModelFolder.read(out)


def check_target(out: Path) -> None:
    """Refuse a folder with other files than those of a model folder.

    Raises
    ------
    ConfigError
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_model_folder(out)):
        raise ConfigError(
            expected("Option", "--out", "a new or empty folder", f"{out} with other files",
                     "Choose another one.")
        )  # fmt: skip


def write_frozen(
    frozen: FrozenEncoder,
    facts: Mapping[str, Any],
    out: Path,
    *,
    license: str | None,
    has_paths: bool = True,
) -> None:
    """Write an encoder with its model card; without ``has_paths``, for the public.

    Raises
    ------
    TrainingError
        If the disk refuses.
    """
    with writing("Model folder", out, then="Then export again."):
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / CARD, str(card_of(frozen, facts, license=license)))
        write_model_folder(
            out, frozen.encoder, config=frozen.config, window=frozen.window, group=frozen.group,
            facts=facts, license=license, has_paths=has_paths,
        )  # fmt: skip


def card_of(frozen: FrozenEncoder, facts: Mapping[str, Any], *, license: str | None) -> Any:
    """Return the model card of an encoder."""
    n_parameters = sum(parameter.numel() for parameter in frozen.encoder.parameters())
    return model_card(
        frozen.encoder.config, frozen.config.objective.name, frozen.group, facts,
        window=frozen.window, n_parameters=n_parameters, license=license,
    )  # fmt: skip
