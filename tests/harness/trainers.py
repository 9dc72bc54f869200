"""Trainers on the CPU, also for child processes that see this folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.config import Config
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.recipe import build_config, override
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.training.loop import Trainer
from fmritok.trainer.training.setup import Setup

__all__ = ["trainer_on_cpu"]


def trainer_on_cpu(
    config: Config | list[str], group: TokenGroup | MixedGroup, out: Path, **setup: Any
) -> Trainer:
    """Return a trainer that writes to ``out``; the configuration may be a list of options."""
    if isinstance(config, list):
        config = build_config(override({}, config))
    return Trainer(
        config, group, Setup(folder=TrainingFolder(out), device=torch.device("cpu"), **setup)
    )
