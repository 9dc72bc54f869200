"""Ownership of phenotypes: a cohort never replaces phenotypes of another cohort's subjects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pandas as pd

from fmritok.errors import StoreError, expected
from fmritok.pipeline.catalog.cohort import Cohort
from fmritok.pipeline.store.documents.root import group_names, read_root
from fmritok.pipeline.store.ledger import current_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.tables.annotations import ANNOTATIONS, read_annotation

__all__ = ["check_annotations", "without_kept"]

_NEXT_STEP = "If this is another cohort, give it a name with --name."


def without_kept(cohort: Cohort, kept: Collection[str]) -> Cohort:
    """Return a cohort without the annotations of runs that are kept in the store.

    The phenotypes of a subject are dropped if all of its runs are kept.
    """
    if not kept:
        return cohort
    runs = cohort.runs[~cohort.runs["run_id"].isin(set(kept))]
    gone = set(cohort.runs["subject"]) - set(runs["subject"])
    return replace(
        cohort,
        events=cohort.events[~cohort.events["run_id"].isin(set(kept))],
        phenotypes=cohort.phenotypes[~cohort.phenotypes["subject"].isin(gone)],
    )


def check_annotations(location: Location, cohort: Cohort, kept: Collection[str] = ()) -> None:
    """Refuse a cohort that would change phenotypes of another cohort's subjects.

    A subject is refused if all of its finished runs are missing from the catalogue, and its
    phenotypes differ from the store or have more values. Another unit of a column is refused if the
    store has no run of this cohort.

    Parameters
    ----------
    location : Location
    cohort : Cohort
    kept : collection of str
        Catalogued runs with changed files, kept in the store as they are.

    Raises
    ------
    StoreError
        If the cohort is refused. The error names the first differing value.
    """
    if not location.exists("zarr.json") or cohort.phenotypes.empty:
        return
    mine = set(cohort.runs["run_id"]) - set(kept)
    known_runs: set[str] = set()
    is_foreign: dict[str, bool] = {}
    for group in group_names(read_root(location)):
        runs = current_runs(location, group)
        runs = runs[(runs["status"] == "done") & (runs["dataset"] == cohort.dataset)]
        known_runs |= set(runs["run_id"])
        for subject, run_id in zip(runs["subject"], runs["run_id"], strict=True):
            is_foreign[subject] = is_foreign.get(subject, True) and run_id not in mine
    foreign = {subject for subject, others in is_foreign.items() if others}
    _check_values(location, cohort, foreign)
    if known_runs and not known_runs & mine:
        _check_units(location, cohort)


def _check_values(location: Location, cohort: Cohort, foreign: Collection[str]) -> None:
    table = cohort.phenotypes[cohort.phenotypes["subject"].isin(set(foreign))]
    if table.empty:
        return
    keys = list(ANNOTATIONS["phenotypes"])
    known = read_annotation(location, "phenotypes")
    known = known[known["subject"].isin(table["subject"])]
    rows = {tuple(row[key] for key in keys): row for row in known.to_dict("records")}
    for row in table.to_dict("records"):
        old = rows.get(tuple(row[key] for key in keys), {})
        for name in (n for n in row if n not in keys):
            if not _is_missing(row[name]) and (
                _is_missing(old.get(name)) or old[name] != row[name]
            ):
                there = "nothing" if _is_missing(old.get(name)) else repr(old[name])
                raise StoreError(
                    expected("Phenotypes of subject",
                             f"{row['subject']} of {row['dataset']} in {location}",
                             f"{name} = {there}, as in the store, or a run of the store in "
                             "this cohort", repr(row[name]), _NEXT_STEP)
                )  # fmt: skip


def _check_units(location: Location, cohort: Cohort) -> None:
    known = read_annotation(location, "phenotype_columns")
    known = known[known["dataset"] == cohort.dataset]
    units = dict(zip(known["column"], known.get("unit", ()), strict=True))
    for column, unit in zip(cohort.columns["column"], cohort.columns["unit"], strict=True):
        old = units.get(column)
        if not _is_missing(old) and not _is_missing(unit) and old != unit:
            raise StoreError(
                expected(f"Unit of phenotype column {column} of", cohort.dataset,
                         f"{old!r}, as in the store", repr(unit), _NEXT_STEP)
            )  # fmt: skip


def _is_missing(value: Any) -> bool:
    return bool(pd.isna(value)) or value == ""
