"""What a checkpoint must agree with, for a training to go on from it exactly."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fmritok.pipeline.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.checkpoint import list_checkpoints, read_state, refuse_another, run_folder
from fmritok.trainer.config import Config
from fmritok.trainer.errors import CheckpointError, ConfigError, TrainingError
from fmritok.trainer.mixing import MixedGroup
from fmritok.trainer.progress import Position
from fmritok.trainer.split import Split, check_no_leakage, split_runs, with_subjects

__all__ = ["check_state", "choose_split", "refuse_used", "training_state"]

_logger = logging.getLogger(__name__)


def training_state(
    position: Position, config: Config, group: TokenGroup | MixedGroup, split: Split
) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors, JSON-able."""
    return {
        "step": position.step,
        "position": asdict(position),
        "config": asdict(config),
        "group": {"name": group.name, "contract": group.contract},
        "split": split.sha256,
        "torch": torch.__version__,
    }


def refuse_used(out: Path) -> None:
    """Refuse to start a new training in a folder that has checkpoints of another one.

    Raises
    ------
    ConfigError
    """
    if list_checkpoints(out):
        raise ConfigError(
            expected("Option", "--out", "a folder without checkpoints", str(out),
                     f"Go on with that training by --resume {out}, or choose another folder.")
        )  # fmt: skip


def check_state(
    resume: Path, out: Path, config: Config, group: TokenGroup | MixedGroup
) -> dict[str, Any]:
    """Read a checkpoint's state, and refuse one that a training cannot go on from.

    Raises
    ------
    CheckpointError
        If it was saved with another configuration or other tokens, or if the folder of the
        training has a later one.
    """
    state = read_state(resume)
    refuse_another(
        resume, "Configuration", state["config"], asdict(config),
        "Resume without changed options, or start a new training with --init-from.",
    )  # fmt: skip
    tokens = {"name": group.name, **group.contract}
    refuse_another(
        resume, "Tokens", {"name": state["group"]["name"], **state["group"]["contract"]},
        tokens, "Use the store it was trained on, or start a new training with --init-from.",
    )  # fmt: skip
    latest = list_checkpoints(out)[-1:]
    if latest and latest[0].absolute() != resume.absolute():
        raise CheckpointError(
            expected("Checkpoint for resuming", resume, f"the latest of {out}",
                     f"an earlier one than {latest[0].name}",
                     "Delete the later ones, or branch off into another folder with --out.")
        )  # fmt: skip
    return state


def choose_split(
    config: Config,
    group: TokenGroup | MixedGroup,
    resume: Path | None = None,
    state: dict[str, Any] | None = None,
) -> Split:
    """Split the store's runs, or take the split of the training that is resumed.

    Raises
    ------
    CheckpointError
        If the split of that training is missing or was changed.
    LeakageError, TrainingError
        If a subject is on both sides, or if there is nothing to train on.
    """
    runs, data = group.runs, config.data
    if resume is not None and state is not None:
        split = Split.from_json(run_folder(resume) / "split.json")
        saved, now = {"sha256": state["split"]}, {"sha256": split.sha256}
        refuse_another(run_folder(resume), "Split", saved, now, "Restore split.json.")
    else:
        seed = config.train.seed
        split = split_runs(runs, fraction=data.validation_fraction, seed=seed)
        if data.subjects is not None:
            split = with_subjects(runs, split, subjects=data.subjects, seed=seed)
    check_no_leakage(runs, split)
    if not split.train:
        raise TrainingError(
            expected("Token group", f"{group.name} of {group.location}",
                     "at least one finished run", "none", "Run `fmritok tokenize` first.")
        )  # fmt: skip
    if not split.validation:
        why = "data.validation_fraction is 0" if not data.validation_fraction else (
            "the store has one subject (or family) only, and windows of one subject must not "
            "be on both sides"
        )  # fmt: skip
        _logger.warning("Training WITHOUT validation: %s", why)
    return split
