"""Fine-tune the encoders of a comparison, each beside its twin from scratch, on the same folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fmritok.progress import Progress
from fmritok.trainer.comparison.protocol import Contestant
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.finetuning.config import FinetuneConfig
from fmritok.trainer.finetuning.engine import DUMMY, SCRATCH, Options, finetune
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units

__all__ = ["finetuned_rows"]


def finetuned_rows(
    store: str,
    task: Task,
    units: Units,
    trained: Sequence[tuple[Contestant, Path]],
    config: FinetuneConfig,
    out: Path,
    *,
    where: Sequence[str] = (),
    device: torch.device,
    progress: Callable[[str], None],
) -> list[Row]:
    """Return two rows for each contestant: fine-tuned, and from scratch.

    Finished folds in the folder are used again.

    Parameters
    ----------
    store : str
    task : Task
    units : Units
        What all other rows are scored on.
    trained : sequence of (Contestant, Path)
        With the folder of each training.
    config : FinetuneConfig
    out : Path
        Folder; each contestant has one in it.
    where : sequence of str
        ``column=value``: which runs.
    device : torch.device
    progress : callable
        Told what is being done.

    Raises
    ------
    ConfigError
        If the task has no labels to train on, or too few families for a validation side.
    TrainingError
        If a loss is not a number, or the machine fails.
    """
    rows: list[Row] = []
    for one, training in trained:
        progress(f"fine-tuning {one.name}")
        options = Options(group=one.group.name, where=where, source=training)
        with Progress("finetune"):
            found = finetune(store, task, config, out / one.folder, options, device=device)
        if found.units.ids.tolist() != units.ids.tolist():
            raise AssertionError("a comparison has the same runs in all groups")
        for row in found.rows:
            if row.name != DUMMY:
                how = "from scratch" if row.name == SCRATCH else "fine-tuned"
                rows.append(replace(row, name=f"{one.name}, {how}"))
    return rows
