"""Weights & Biases beside TensorBoard: the same figures; ``metrics.jsonl`` stays the record."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from fmritok.pipeline.errors import expected
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.faults import write_whole, writing

__all__ = ["WandbRun", "import_wandb"]

#: Keeps the id of the W&B run, so that a resumed training goes on in it.
_ID = "wandb-id"


class WandbRun:
    """A run of W&B that follows one training.

    Parameters
    ----------
    folder : Path
        Of the training; what W&B keeps on disk goes to its ``wandb/``.
    project : str
    config : mapping
        The resolved configuration.

    Raises
    ------
    ConfigError
        If wandb is not installed.
    TrainingError
        If W&B refuses at the start, for instance because nobody is logged in.
    """

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        wandb = import_wandb()
        file = folder / _ID
        if not file.exists():
            with writing("Id of the W&B run", file):
                write_whole(file, secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                id=file.read_text(),
                resume="allow",
                name=folder.name,
                dir=str(folder),
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
