"""Save the checkpoints of a training: gathered from all processes, written by the first one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.config import Config
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.data.split import Split
from fmritok.trainer.parallel.distributed import Ranks
from fmritok.trainer.parallel.sharding import WholeTensors, whole_tensors
from fmritok.trainer.pretrained.cohorts import count_cohorts
from fmritok.trainer.record.checkpoint import METRICS, RUNS, TOKENS
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.resuming import runs_json
from fmritok.trainer.record.saved_group import SavedGroup
from fmritok.trainer.training.progress import Position

__all__ = ["Saver"]


class Saver:
    """Saves the checkpoints of one training.

    Parameters
    ----------
    folder : TrainingFolder
    ranks : Ranks
    config : Config
    group : TokenGroup or MixedGroup
    split : Split
    """

    def __init__(
        self,
        folder: TrainingFolder,
        ranks: Ranks,
        config: Config,
        group: TokenGroup | MixedGroup,
        split: Split,
    ) -> None:
        self._folder, self._ranks, self._keep = folder, ranks, config.train.keep_checkpoints
        self._texts = {RUNS: runs_json(group, split), TOKENS: SavedGroup.of(group).to_bytes()}
        self._constant = {
            "config": asdict(config),
            "group": {"name": group.name, "contract": group.contract},
            "split": split.sha256,
            "cohorts": count_cohorts(group, split),
            "fmritok": version("fmritok"),
            "torch": torch.__version__,
        }

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        position: Position,
        rows: Callable[[], bytes],
    ) -> Path:
        """Write a checkpoint, and return its folder. All processes call this together.

        Parameters
        ----------
        model : torch.nn.Module
        optimizer : torch.optim.Optimizer
        position : Position
        rows : callable
            Gives the metrics so far, as lines of JSON; called in the first process.

        Raises
        ------
        CheckpointError
            If the disk refuses; earlier checkpoints are unchanged.
        """
        tensors = whole_tensors(model, optimizer, keep=self._ranks.is_first)
        return self._ranks.of_first(lambda: self._write(tensors, position, rows()))

    def drop_later(self, step: int) -> None:
        """Delete the checkpoints after a step, and all but the last few up to it."""
        self._ranks.first_only(lambda: self._folder.drop(step, keep=self._keep))

    def _write(self, tensors: WholeTensors, position: Position, rows: bytes) -> Path:
        state = {"step": position.step, "position": asdict(position), **self._constant}
        return self._folder.save(tensors, state, {**self._texts, METRICS: rows}, keep=self._keep)
