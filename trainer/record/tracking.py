"""Send the metrics of a training to Weights & Biases; ``metrics.jsonl`` stays the reference."""

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
    """One W&B run for one training.

    Parameters
    ----------
    folder : TrainingFolder
        Keeps the id of the W&B run for resuming, and the files of W&B in ``wandb/``.
    project : str
    config : mapping
        The resolved configuration.

    Raises
    ------
    ConfigError
        If wandb is not installed.
    TrainingError
        If the id in the folder is not valid, or W&B refuses, for instance without a login.
    """

    def __init__(self, folder: TrainingFolder, project: str, config: Mapping[str, Any]) -> None:
        wandb = import_wandb()
        if not folder.wandb_id.exists():
            folder.write(folder.wandb_id, secrets.token_hex(4))
        kept = folder.wandb_id.read_bytes().decode(errors="replace").strip()
        if not re.fullmatch(r"[\w-]{1,128}", kept, re.ASCII):
            raise TrainingError(
                expected("Id of the W&B run", folder.wandb_id, "letters and digits", repr(kept),
                         "Restore the file, or delete it to start a new W&B run.")
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
        # A training resumed after a kill repeats steps. W&B's own counter never goes back and would
        # drop them.
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, row: Mapping[str, Any]) -> None:
        """Send a row with its ``step``."""
        figures = {f"{kind}/{name}": value for name, value in row.items() if name != "step"}
        self._run.log({"step": row["step"], **figures})

    def close(self) -> None:
        """Send the remaining rows."""
        self._run.finish()


def import_wandb() -> Any:
    """Import wandb, an optional dependency.

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
                     "Install it with `pip install fmritok[wandb]`, or omit --wandb.")
        ) from error  # fmt: skip
