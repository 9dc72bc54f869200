"""Score the encoders of a comparison on one task, all on the same units and folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenStore
from fmritok.progress import Progress
from fmritok.trainer.baselines.connectivity import connectivity
from fmritok.trainer.baselines.material import parcel_series
from fmritok.trainer.comparison.protocol import Contestant
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.probing.cache import FeatureCache
from fmritok.trainer.probing.questions import ProbeOptions
from fmritok.trainer.probing.rows import probe
from fmritok.trainer.tasks.division import SplitOptions, divide
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import units_of

__all__ = ["require_served", "score_encoders"]


def require_served(
    store: TokenStore, task: Task, group: str, where: Sequence[str], *, trains: bool
) -> None:
    """Refuse a task that cannot be scored, before anything is trained.

    Parameters
    ----------
    store : TokenStore
    task : Task
    group : str
    where : sequence of str
        ``column=value``: which runs.
    trains : bool
        Whether encoders are fine-tuned on the task.

    Raises
    ------
    ConfigError
        If the store cannot serve the task, or the task has no labels to train on.
    """
    units = units_of(task, store.group(group).runs, store.phenotypes, store.events, where=where)
    if task.kind != "retrieval":
        divide(units, SplitOptions(), store.runs)
    elif trains:
        raise ConfigError(
            expected("Task", task.name, "labels to train on", "retrieval, where nothing is trained",
                     "Leave --finetune out.")
        )  # fmt: skip


def score_encoders(
    store: TokenStore,
    task: Task,
    trained: Sequence[tuple[Contestant, Path]],
    *,
    where: Sequence[str] = (),
    permutations: int = 0,
    device: torch.device,
    progress: Callable[[str], None],
) -> Results:
    """Score a linear model on each encoder, on an untrained twin, and what needs no encoder.

    Parameters
    ----------
    store : TokenStore
    task : Task
        Of subjects or runs.
    trained : sequence of (Contestant, Path)
        With the folder of each training.
    where : sequence of str
        ``column=value``: which runs.
    permutations : int
        Of the labels, divided among the seeds.
    device : torch.device
    progress : callable

    Raises
    ------
    ConfigError
        If the store cannot serve the task.
    """
    how = ProbeOptions(pool="cells", untrained=True, permutations=permutations)
    folders = [folder for _, folder in trained]
    with TemporaryDirectory() as cache, Progress("probe"):
        (probed,) = probe(
            str(store.location), [task], folders, how, cache=FeatureCache(Path(cache)),
            device=device, where=where, progress=progress,
        )  # fmt: skip
    units, folds = probed.units, probed.folds
    rows: list[Row] = []
    for name in store.groups:
        group = store.group(name)
        if group.dim == 1 and "network" in group.static:
            features, more = connectivity(parcel_series(group, units), "pearson")
            rows += score_features(units, folds, "connectivity (pearson)", features,
                                   permutations=permutations, details=more)  # fmt: skip
            break
    rows += score_features(units, folds, "dummy", None)
    names = [f"{one.name}, {how}" for one, _ in trained for how in ("probe", "untrained probe")]
    seen = [more for one, _ in trained for more in (one.seen, {})]
    for row, name, more in zip(probed.rows, names, seen, strict=True):
        rows.append(replace(row, name=name, details={**row.details, **more}))
    return replace(probed, rows=tuple(rows))
