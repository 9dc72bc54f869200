"""Weights & Biases beside TensorBoard: the same figures; ``metrics.jsonl`` stays the record."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.record.folder import TrainingFolder

__all__ = ["WandbTracker", "import_wandb"]


class WandbTracker:
    """A run of W&B that follows one training.

    Parameters
    ----------
    folder : TrainingFolder
        Keeps the id of the W&B run, so that a resumed training goes on in it. What W&B keeps on
        disk goes to its ``wandb/``.
    project : str
    config : mapping
        The resolved configuration.

    Raises
    ------
    ConfigError
        If wandb is not installed.
    TrainingError
        If the id that the folder keeps is none, or W&B refuses at the start, for instance because
        nobody is logged in.
    """

    def __init__(self, folder: TrainingFolder, project: str, config: Mapping[str, Any]) -> None:
        wandb = import_wandb()
        if not folder.wandb_id.exists():
            folder.write(folder.wandb_id, secrets.token_hex(4))
        kept = folder.wandb_id.read_bytes().decode(errors="replace").strip()
        if not re.fullmatch(r"[\w-]{1,128}", kept, re.ASCII):
            raise TrainingError(
                expected("Id of the W&B run", folder.wandb_id, "letters and digits", repr(kept),
                         "Restore the file, or delete it: then a new run of W&B is started.")
            )  # fmt: skip
        try:
            self._run = wandb.init(
                project=project,
                id=kept,
                resume="allow",
                name=folder.path.name,
                dir=str(folder.path),
                config=dict(config),
                settings=wandb.Settings(console="off"),
            )
        except (wandb.Error, OSError) as error:
            raise TrainingError(
                expected("Option", "--wandb", "a run of W&B", str(error).rstrip("."),
                         "Log in with `wandb login`, or set WANDB_MODE=offline.")
            ) from error  # fmt: skip
        # Rows of a checkpoint's later steps come again after a kill: W&B's own counter of steps
        # never goes back, and would drop them.
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, row: Mapping[str, Any]) -> None:
        """Pass on a row with its ``step``."""
        figures = {f"{kind}/{name}": value for name, value in row.items() if name != "step"}
        self._run.log({"step": row["step"], **figures})

    def close(self) -> None:
        """Send or write what is left."""
        self._run.finish()


def import_wandb() -> Any:
    """Import wandb, which is no dependency of fmritok.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            expected("Option", "--wandb", "the package wandb", error,
                     "Install it with `pip install fmritok[wandb]`, or leave --wandb away.")
        ) from error  # fmt: skip
