"""What is explained: the head of a fine-tuned classifier, a linear head, or the embedding."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.finetuning.kept import group_of_classifier, read_classifier
from fmritok.trainer.saliency.finetuned import FinetunedReadout
from fmritok.trainer.saliency.readout import Number, Readout, batches_of, fit_head, run_means
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, units_of

__all__ = ["Explained", "explain"]


class Explained(NamedTuple):
    """A number, and the runs on which it is explained."""

    readout: Number
    group: TokenGroup
    window: int
    """frames"""
    run_ids: list[str]
    what: str
    """for titles"""


def explain(
    source: Path,
    store: TokenStore,
    *,
    group: str | None = None,
    task: Task | None = None,
    of_class: str | None = None,
    crops: int,
    device: torch.device,
) -> Explained:
    """Return what a training or the weights of a fine-tuning have to be explained.

    Of a training, a linear head that is fitted on all units of the task, or, without a task, the
    squared norm of the embedding. Of weights, their own head; a task only chooses the runs.

    Parameters
    ----------
    source : Path
        Folder of a training, one of its checkpoints, or a file of
        ``fmritok finetune --keep-weights``.
    store : TokenStore
    group : str, optional
        Default: the one of the training.
    task : Task, optional
    of_class : str, optional
        Default: the last one.
    crops : int
        Windows of each run that a head is fitted on.
    device : torch.device

    Raises
    ------
    ConfigError
        If the store cannot serve the task, or there is no such class.
    CheckpointError
        If there is no training, or it was on other tokens.
    """
    if source.suffix == ".safetensors":
        return _of_weights(source, store, group, task, of_class, device)
    tokens = store.group(group or load_frozen(source).group.name)
    frozen = load_frozen(source, tokens)
    readout = Readout(frozen.encoder).to(device)
    if task is None:
        if of_class is not None:
            raise ConfigError(
                expected("Option", "--class", "a head that tells classes apart",
                         "the norm of the embedding", "Give --task, or leave --class out.")
            )  # fmt: skip
        return Explained(readout, tokens, frozen.window, list(tokens), "norm of the embedding")
    units = units_of(task, tokens.runs, store.phenotypes, store.events)
    run_ids = _labelled(units)
    batches, _ = batches_of(tokens, run_ids, window=frozen.window, crops=crops)
    head = fit_head(units, run_means(readout, batches, len(run_ids), device), of_class)
    readout = Readout(frozen.encoder, head).to(device)
    return Explained(readout, tokens, frozen.window, run_ids, f"linear head of {head.name}")


def _of_weights(
    file: Path, store: TokenStore, group: str | None, task: Task | None, of_class: str | None,
    device: torch.device,
) -> Explained:  # fmt: skip
    tokens = store.group(group or group_of_classifier(file))
    kept = read_classifier(file, tokens)
    readout = FinetunedReadout(kept, of_class).to(device)
    run_ids = list(tokens)
    if task is not None:
        run_ids = _labelled(units_of(task, tokens.runs, store.phenotypes, store.events))
    return Explained(readout, tokens, kept.window, run_ids, f"{readout.name}, {file.stem}")


def _labelled(units: Units) -> list[str]:
    used = np.flatnonzero(units.labels.of_row >= 0)
    return list(dict.fromkeys(units.runs["run_id"].iloc[used].tolist()))
