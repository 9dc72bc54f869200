"""Where a training is written, what it runs on and what it starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from fmritok.trainer.parallel.distributed import Ranks
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.record.folder import TrainingFolder

__all__ = ["Setup"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that a training needs beside its configuration and its tokens.

    Attributes
    ----------
    folder : TrainingFolder
        Folder to write to. With several processes, all use the folder of the first one.
    device : torch.device
    workers : int
        Number of loader processes. It does not change the result.
    ranks : Ranks
        This process among those that train together. Their number changes only the order of sums.
    shard : bool
        Divide the model among the processes; see :mod:`fmritok.trainer.parallel.sharding`.
    resume : Path or Checkpoint, optional
        Training to continue exactly: a checkpoint, or the folder of a training (then its latest
        undamaged checkpoint).
    init_from : Path, optional
        Weights to start from.
    wandb : str, optional
        Weights & Biases project to log to.
    """

    folder: TrainingFolder
    device: torch.device
    workers: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    shard: bool = False
    resume: Path | Checkpoint | None = None
    init_from: Path | None = None
    wandb: str | None = None
