"""Rows of baselines on a task: from a store to results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.baselines.connectivity import MIN_FRAMES, Connectivity, connectivity
from fmritok.trainer.baselines.features import Columns, Fixed, Residual
from fmritok.trainer.baselines.material import (
    NUISANCE,
    mean_tokens,
    nuisance_table,
    parcel_series,
    too_short,
)
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.crossval import Features, Row, cross_validate, retrieve
from fmritok.trainer.evaluation.results import Results
from fmritok.trainer.tasks.split_file import (
    Pretraining,
    held_out_fold,
    overlap,
    read_pretraining,
    read_split,
)
from fmritok.trainer.tasks.splits import Fold, folds_of
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, units_of, without_units

__all__ = ["KINDS", "Kind", "SplitOptions", "baseline", "divide", "score_features"]

Kind = Literal["connectivity", "tokens", "nuisance", "dummy"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class SplitOptions(NamedTuple):
    """A division other than the task's own."""

    file: Path | None = None
    held_out: Path | None = None
    """a training, on whose held-out subjects is tested"""
    pretraining: Path | None = None
    """a training, whose subjects are looked for among the tested ones"""


def baseline(
    store: str,
    task: Task,
    kinds: Sequence[Kind],
    *,
    group: str | None = None,
    kind_of_connectivity: Connectivity = "pearson",
    regress: Sequence[str] = (),
    where: Sequence[str] = (),
    split: SplitOptions = SplitOptions(),  # noqa: B008  immutable
    permutations: int = 100,
    progress: Callable[[str], None] = lambda line: None,
) -> Results:
    """Score baselines of a task, all on the same units and folds.

    Parameters
    ----------
    store : str
    task : Task
    kinds : sequence of {"connectivity", "tokens", "nuisance", "dummy"}
    group : str, optional
        Token group; by default ``network`` for connectivity, else the only one.
    kind_of_connectivity : {"pearson", "partial", "tangent"}
    regress : sequence of str
        Confounds that features are also scored without: regressed out within each fold.
    where : sequence of str
        ``column=value``: which runs, instead of what the task says of that property.
    split : SplitOptions
    permutations : int
        Of the labels, divided among the seeds.
    progress : callable
        Told what is being done.

    Raises
    ------
    ConfigError
        If the store cannot serve the task, or a kind does not go with it.
    """
    opened = TokenStore(store)
    tokens = opened.group(_group_name(opened, group, kinds))
    units = units_of(task, tokens.runs, opened.phenotypes, opened.events, where=where)
    details: dict[str, Any] = {"store": store, "group": tokens.name}
    confounds, nuisance = None, None
    if "connectivity" in kinds:
        units = without_units(units, too_short(units), f"fewer than {MIN_FRAMES} frames")
    if regress:
        confounds, _ = nuisance_table(regress, units, opened.phenotypes, asked=True)
        units, confounds = _known(units, confounds, "confound missing")
    if "nuisance" in kinds:
        nuisance, unused = nuisance_table(NUISANCE, units, opened.phenotypes, asked=False)
        if not len(nuisance.columns):
            said = "; ".join(f"{name}: {why}" for name, why in unused.items())
            raise ConfigError(
                expected("Baseline", "nuisance", f"some of {', '.join(NUISANCE)}", said,
                         "Leave --kind nuisance out.")
            )  # fmt: skip
        before = units
        units, nuisance = _known(units, nuisance, "nuisance variable missing")
        if confounds is not None:
            kept = np.isin(before.ids, units.ids)
            confounds = confounds[kept].reset_index(drop=True)
    if task.kind == "retrieval":
        _refuse_for_retrieval(kinds, regress, split)
        folds: list[Fold] = []
    else:
        folds, of_split = divide(units, split, opened.runs)
        details |= of_split
    rows: list[Row] = []
    for kind in kinds:
        progress(f"{kind}: {len(units)} {task.unit}s")
        features, more = _features(kind, tokens, units, nuisance, kind_of_connectivity)
        name = f"connectivity ({kind_of_connectivity})" if kind == "connectivity" else kind
        rows += score_features(
            units, folds, name, features,
            confounds=confounds if kind in ("connectivity", "tokens") else None,
            permutations=permutations, details=more,
        )  # fmt: skip
    if task.kind == "retrieval":
        folds = [rows[0].predictions[0].fold]
    return Results(units, tuple(folds), tuple(rows), details)


def divide(
    units: Units, split: SplitOptions, runs: pd.DataFrame
) -> tuple[list[Fold], dict[str, Any]]:
    """Divide units by the task's rule, a file, or a pretraining; name who it has seen.

    Parameters
    ----------
    units : Units
    split : SplitOptions
    runs : pd.DataFrame
        All runs of the store.
    """
    details: dict[str, Any] = {"split": {"by": units.task.split.by}, "overlap": None}
    seen: Pretraining | None = None
    if split.file is not None and split.held_out is not None:
        raise ConfigError(
            expected("Option", "--split", "one way of dividing subjects", "--held-out as well",
                     "Choose one of them.")
        )  # fmt: skip
    if split.file is not None:
        fold, said = read_split(split.file, units)
        folds, details["split"] = [fold], said
    elif split.held_out is not None:
        seen = read_pretraining(split.held_out)
        folds, details["split"] = [held_out_fold(seen, units, runs)], {"held_out": seen.name}
    else:
        folds = folds_of(units, units.task.split)
    if split.pretraining is not None:
        seen = read_pretraining(split.pretraining)
    if seen is not None:
        details["overlap"] = overlap(seen, units, folds, runs)
    return folds, details


def score_features(
    units: Units,
    folds: Sequence[Fold],
    name: str,
    features: Features | None,
    *,
    confounds: pd.DataFrame | None = None,
    permutations: int = 0,
    details: dict[str, Any] | None = None,
) -> list[Row]:
    """Score features on a task, and once more less the confounds, if there are any.

    Parameters
    ----------
    units : Units
    folds : sequence of Fold
        Not looked at for retrieval, which needs no training.
    name : str
    features : Features or None
        None: the mean of the training units, or the shares of their classes.
    confounds : pd.DataFrame of n_units rows, optional
    permutations : int
        Of the labels, divided among the seeds.
    details : dict, optional
        What the record should say of the row.
    """
    details = details or {}
    if units.task.kind == "retrieval":
        if features is None:
            raise ValueError("retrieval needs features")
        everybody = np.arange(len(units))
        found, _ = retrieve(units, features.fold(everybody, everybody)[0],
                            permutations=permutations)  # fmt: skip
        return [Row(name, found, details)]
    seeds = len({fold.seed for fold in folds})
    of_seed = -(-permutations // seeds) if features is not None else 0
    by = units.task.split.by if len(folds) > 1 else "family"
    by = "site" if by == "leave-site-out" else by
    found = cross_validate(units, folds, features, by=by, permutations=of_seed)
    rows = [Row(name, found, details)]
    if confounds is not None and features is not None:
        less = Residual(features, Columns(confounds))
        found = cross_validate(units, folds, less, by=by, permutations=of_seed)
        named = ", ".join(map(str, confounds.columns))
        rows.append(Row(f"{name} less {named}", found, {**details, "regressed": named}))
    return rows


def _features(
    kind: Kind,
    tokens: TokenGroup,
    units: Units,
    nuisance: pd.DataFrame | None,
    kind_of_connectivity: Connectivity,
) -> tuple[Features | None, dict[str, Any]]:
    if kind == "connectivity":
        return connectivity(parcel_series(tokens, units), kind_of_connectivity)
    if kind == "tokens":
        return Fixed(mean_tokens(tokens, units), units.ids), {}
    if kind == "nuisance" and nuisance is not None:
        return Columns(nuisance), {"variables": list(map(str, nuisance.columns))}
    return None, {}


def _known(units: Units, table: pd.DataFrame, reason: str) -> tuple[Units, pd.DataFrame]:
    """Leave out the units that lack a variable."""
    lacking = table.isna().any(axis=1).to_numpy()
    return without_units(units, lacking, reason), table[~lacking].reset_index(drop=True)


def _group_name(store: TokenStore, group: str | None, kinds: Sequence[Kind]) -> str | None:
    if group is None and "network" in store and ("connectivity" in kinds or len(store.groups) > 1):
        return "network"
    return group


def _refuse_for_retrieval(
    kinds: Sequence[Kind], regress: Sequence[str], split: SplitOptions
) -> None:
    wrong: list[str] = [kind for kind in kinds if kind not in ("connectivity", "tokens")]
    wrong += ["--regress"] * bool(regress) + ["a split"] * (split != SplitOptions())
    if wrong:
        raise ConfigError(
            expected("Retrieval", "of runs", "connectivity or tokens alone: nothing is trained",
                     ", ".join(wrong), "Leave it out.")
        )  # fmt: skip
