"""Score the encoders of a comparison on one task, all on the same units and folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.baselines.connectivity import connectivity
from fmritok.trainer.baselines.material import parcel_series
from fmritok.trainer.comparison.protocol import Contestant
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.features import load_encoder, run_features
from fmritok.trainer.evaluation.results import Results
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.unit_features import Fixed
from fmritok.trainer.tasks.division import SplitOptions, divide
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, units_of

__all__ = ["score_encoders"]

_CROPS = 8


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
    first = trained[0][0].group
    units = units_of(task, first.runs, store.phenotypes, store.events, where=where)
    folds, details = divide(units, SplitOptions(), store.runs)
    rows: list[Row] = []
    for name in store.groups:
        group = store.group(name)
        if group.dim == 1 and "network" in group.static:
            features, more = connectivity(parcel_series(group, units), "pearson")
            rows += score_features(units, folds, "connectivity (pearson)", features,
                                   permutations=permutations, details=more)  # fmt: skip
            break
    rows += score_features(units, folds, "dummy", None)
    for one, folder in trained:
        for untrained in (None, 0):
            name = one.name if untrained is None else f"{one.name}, untrained"
            progress(f"scoring {name}")
            fixed = Fixed(_of_units(one.group, folder, units, untrained, device), units.ids)
            more = {"group": one.group.name, **one.seen} if untrained is None else {}
            rows += score_features(units, folds, name, fixed, permutations=permutations,
                                   details=more)  # fmt: skip
    return Results(units, tuple(folds), tuple(rows), details)


def _of_units(
    group: TokenGroup, training: Path, units: Units, untrained: int | None, device: torch.device
) -> npt.NDArray[np.float32]:
    """Return the mean over the runs of each unit of an encoder's features, cells kept apart."""
    frozen = load_encoder(training, group, untrained_seed=untrained)
    of_row = units.labels.of_row
    rows = np.flatnonzero(of_row >= 0)
    index = RunIndex.of(group.runs, units.runs["run_id"].iloc[rows].tolist())
    of_run = run_features(frozen, group, index, crops=_CROPS, device=device, pool="cells")
    sums = np.zeros((len(units), of_run.shape[1]))
    np.add.at(sums, of_row[rows], of_run)
    counts = np.bincount(of_row[rows], minlength=len(units))
    return np.asarray(sums / counts[:, None], np.float32)
