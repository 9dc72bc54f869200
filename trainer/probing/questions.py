"""What a probe is asked: tasks with their units and folds, the heads, and who was seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.errors import CheckpointError, ConfigError, TrainingError
from fmritok.trainer.evaluation.features import Pool
from fmritok.trainer.probing.attentive import AttentiveOptions
from fmritok.trainer.probing.material import Source, units_in_all
from fmritok.trainer.probing.passes import Form
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.tasks.confounds import nuisance_table
from fmritok.trainer.tasks.division import SplitOptions, divide
from fmritok.trainer.tasks.split_file import overlap, read_pretraining, says_who
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, without_units

__all__ = ["HeadName", "ProbeOptions", "Question", "ask", "seen_before"]

HeadName = Literal["linear", "logistic", "attentive", "knn"]


@dataclass(frozen=True)
class ProbeOptions:
    """How encoders are probed.

    Attributes
    ----------
    heads : tuple of {"linear", "logistic", "attentive", "knn"}
    pool : {"mean", "cells"}
        Features: CLS, and the mean over all tokens or over those of each cell. An attentive head
        takes all tokens.
    untrained : bool
        Also probe untrained encoders of the same shape, one for each seed of the folds.
    crops : int
        Evenly spread windows of each run.
    regress : tuple of str
        Confounds that features are also scored without; not those of an attentive head.
    permutations : int
        Of the labels, divided among the seeds; none for an attentive head.
    attentive : AttentiveOptions
    """

    heads: tuple[HeadName, ...] = ("linear",)
    pool: Pool = "mean"
    untrained: bool = False
    crops: int = 8
    regress: tuple[str, ...] = ()
    permutations: int = 100
    attentive: AttentiveOptions = AttentiveOptions()


@dataclass(frozen=True)
class Question:
    """A task with its units in the tokens of each source, and their folds.

    Attributes
    ----------
    units : list of Units
        The same ones for each source, with the rows that they have there.
    folds : list of Fold
        Empty for retrieval.
    confounds : pd.DataFrame of n_units rows, or None
    details : dict
        What the results should say of them.
    """

    units: list[Units]
    folds: list[Fold]
    confounds: pd.DataFrame | None
    details: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the folds."""
        return sorted({fold.seed for fold in self.folds}) or [0]

    @property
    def retrieves(self) -> bool:
        """Whether runs are compared, and nothing is trained."""
        return self.units[0].task.kind == "retrieval"

    def forms(self, options: ProbeOptions) -> list[Form]:
        """Return the forms of features that the heads take."""
        attentive = "attentive" in options.heads and not self.retrieves
        pooled = set(options.heads) != {"attentive"} or self.retrieves
        found: list[Form] = [options.pool] if pooled else []
        return [*found, "tokens"] if attentive else found


def ask(
    task: Task,
    sources: Sequence[Source],
    store: TokenStore,
    options: ProbeOptions,
    where: Sequence[str],
    split: SplitOptions,
) -> Question:
    """Find a task's units and folds, before an encoder works.

    Raises
    ------
    ConfigError
        If the store cannot serve the task, or options do not go together.
    """
    several = units_in_all(task, sources, store, where)
    kind = several[0].task.kind
    if kind == "retrieval":
        wrong = ["--regress"] * bool(options.regress)
        wrong += ["a split"] * (split.file is not None or split.held_out is not None)
        if wrong:
            raise ConfigError(
                expected("Task", task.name, "nothing that trains: runs are only compared",
                         ", ".join(wrong), "Leave it out.")
            )  # fmt: skip
    if kind == "regression" and "logistic" in options.heads:
        raise ConfigError(
            expected("Option", f"--head logistic with task {task.name}", "classes", "numbers",
                     "Choose --head linear.")
        )  # fmt: skip
    confounds = None
    if options.regress:
        confounds, _ = nuisance_table(options.regress, several[0], store.phenotypes, asked=True)
        lacking = confounds.isna().any(axis=1).to_numpy()
        several = [without_units(units, lacking, "confound missing") for units in several]
        confounds = confounds[~lacking].reset_index(drop=True)
    details: dict[str, Any] = {"store": str(store.location)}
    folds: list[Fold] = []
    if kind != "retrieval":
        folds, of_split = divide(several[0], split, store.runs)
        details |= of_split
    return Question(several, folds, confounds, details)


def seen_before(
    source: Source, question: Question, units: Units, store: TokenStore, split: SplitOptions
) -> dict[str, Any] | None:
    """Count the tested subjects that the encoder was trained on; of retrieval, all are tested."""
    folds = question.folds
    if question.retrieves:
        nobody, everybody = np.zeros(len(units), bool), np.ones(len(units), bool)
        folds = [Fold(0, 0, "", nobody, nobody, everybody)]
    if split.pretraining is None and not says_who(source.training):
        return None
    try:
        seen = read_pretraining(split.pretraining or source.training)
    except (CheckpointError, TrainingError):
        if split.pretraining is not None or find_checkpoint(source.training).is_sealed:
            raise
        return None  # a checkpoint of release 0.1 that lies outside of its training
    return overlap(seen, units, folds, store.runs)
