"""Rows of baselines on a task: from a store to results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.quantities import counted
from fmritok.trainer.baselines.connectivity import MIN_FRAMES, Connectivity, connectivity
from fmritok.trainer.baselines.material import mean_tokens, parcel_series, too_short
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.heads import Features
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.evaluation.unit_features import Columns, Fixed
from fmritok.trainer.tasks.confounds import NUISANCE, known_units, nuisance_table
from fmritok.trainer.tasks.division import SplitOptions, divide
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, units_of, without_units

__all__ = ["KINDS", "Kind", "baseline"]

Kind = Literal["connectivity", "tokens", "nuisance", "dummy"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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
        units, confounds = known_units(units, confounds, "confound missing")
    if "nuisance" in kinds:
        nuisance, unused = nuisance_table(NUISANCE, units, opened.phenotypes, asked=False)
        if not len(nuisance.columns):
            said = "; ".join(f"{name}: {why}" for name, why in unused.items())
            raise ConfigError(
                expected("Baseline", "nuisance", f"some of {', '.join(NUISANCE)}", said,
                         "Leave --kind nuisance out.")
            )  # fmt: skip
        before = units
        units, nuisance = known_units(units, nuisance, "nuisance variable missing")
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
        progress(f"{kind}: {counted(len(units), task.unit)}")
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
