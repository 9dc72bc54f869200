"""Facts of a store for the report: runs, exclusions, repetition times, motion, token groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.tables.phenotype_counts import count_phenotypes
from fmritok.quantities import size
from fmritok.trainer.tasks.confounds import MOTION

__all__ = ["Cohort", "read_cohort"]

_NAMED = 5
_MOST_PHENOTYPES = 20


@dataclass(frozen=True)
class Cohort:
    """What the report says of a store.

    Attributes
    ----------
    kinds : list of dict
        One for each dataset, task and site: subjects, runs, hours, TRs.
    excluded : list of dict
        ``reason, group, count, runs``: why runs have no tokens, some of them named.
    groups : list of dict
        One for each token group.
    phenotypes : list of dict
    motion : dict or None
        Median and 95th percentile over subjects, by dataset.
    notes : list of str
        What the store does not have.
    """

    kinds: list[dict[str, Any]]
    excluded: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    phenotypes: list[dict[str, Any]]
    motion: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def read_cohort(store: TokenStore) -> Cohort:
    """Read the facts of a store.

    Raises
    ------
    StoreError
        If the store is damaged.
    """
    groups = [store.group(name) for name in store.groups]
    notes = [] if groups else ["The store has no finished token group."]
    # one row of each run, finished in any group
    tables = [group.all_runs.assign(group=group.name) for group in groups]
    runs = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    phenotypes = store.phenotypes
    if phenotypes.empty:
        notes.append("The store has no phenotypes: it was tokenized without tables of subjects.")
    motion = _motion_of_runs(runs) or _motion(phenotypes)
    if not motion:
        notes.append("Head motion is unknown: the runs have none, and the phenotypes have none of "
                     f"{', '.join(MOTION)}.")  # fmt: skip
    return Cohort(
        _kinds(runs), _excluded(runs), [_group(store, group) for group in groups],
        _described(store)[:_MOST_PHENOTYPES], motion, notes,
    )  # fmt: skip


def _described(store: TokenStore) -> list[dict[str, Any]]:
    """Count values of phenotypes; ids of families and parents identify people."""
    counted = count_phenotypes(store.phenotypes, store.phenotype_columns)
    return [one for one in counted if not re.search(r"(^|_)id$", one["column"], re.IGNORECASE)]


def _kinds(runs: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if runs.empty:
        return found
    done = runs[runs["status"] == "done"].drop_duplicates("run_id")
    every = runs.drop_duplicates("run_id")
    for key, some in every.groupby(["dataset", "task", "site"], dropna=False, sort=True):
        dataset, task, site = ("" if part != part or part is None else str(part) for part in key)
        own = done[done["run_id"].isin(some["run_id"])]
        # the run itself, not the tokens: a group may be resampled in time
        found.append(
            {
                "dataset": dataset, "task": task, "site": site,
                "subjects": int(own["subject"].nunique()), "runs": len(own),
                "left_out": len(some) - len(own),
                "hours": _hours(float((own["n_frames"] * own["tr"]).sum() / 3600)),
                "minutes": _span(own["n_frames"] * own["tr"] / 60),
                "tr": _span(own["tr"]),
            }
        )  # fmt: skip
    return found


def _excluded(runs: pd.DataFrame) -> list[dict[str, Any]]:
    if runs.empty:
        return []
    missing = runs[runs["status"] != "done"].copy()
    missing["reason"] = [
        str(reason) if status == "failed" and reason else "not tokenized yet"
        for status, reason in zip(missing["status"], missing["reason"], strict=True)
    ]
    found = []
    for reason, some in missing.groupby("reason", sort=True):
        ids = list(dict.fromkeys(some["run_id"]))
        found.append(
            {"reason": reason, "groups": ", ".join(dict.fromkeys(some["group"])),
             "count": len(ids), "runs": ids[:_NAMED], "more": max(len(ids) - _NAMED, 0)}
        )  # fmt: skip
    return sorted(found, key=lambda one: -one["count"])


def _group(store: TokenStore, group: TokenGroup) -> dict[str, Any]:
    provenance, notes = group.provenance, group.notes
    return {
        "name": group.name,
        "tokenizer": str(provenance.get("tokenizer", "")),
        "runs": len(group),
        "frames": int(group.runs["n_frames"].sum()),
        "tokens": group.n_tokens,
        "dim": group.dim,
        "dtype": group.precision,
        "tr": _span(group.runs["tr"]),
        "size": size(store.location.used_bytes(group.name)),
        "settings": _flat({**provenance, "layout": "", "notes": dict(notes)}),
    }


def _flat(tree: Mapping[str, Any], under: str = "") -> list[tuple[str, str]]:
    """Return the settings of a tree as paths and texts."""
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        path = f"{under}.{name}" if under else str(name)
        if isinstance(value, Mapping):
            found += _flat(value, path)
        elif value not in ("", None):
            text = str(value)
            found.append((path, text if len(text) <= 120 else text[:117] + "..."))
    return found


def _motion_of_runs(runs: pd.DataFrame) -> list[dict[str, Any]]:
    if runs.empty:
        return []
    known = runs[runs["status"] == "done"].dropna(subset="motion").drop_duplicates("run_id")
    return [
        _spread(str(dataset), "mean of each run (mm)", some["motion"])
        for dataset, some in known.groupby("dataset")
    ]


def _motion(phenotypes: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    lower = {str(name).lower(): name for name in phenotypes.columns}
    column = next((lower[name] for name in MOTION if name in lower), None)
    if column is None:
        return found
    for dataset, some in phenotypes.groupby("dataset"):
        values = pd.to_numeric(some[column], errors="coerce").dropna()
        if len(values):
            found.append(_spread(str(dataset), str(column), values))
    return found


def _spread(dataset: str, column: str, values: pd.Series) -> dict[str, Any]:
    return {"dataset": dataset, "column": column, "n": len(values),
            "median": float(values.median()), "p95": float(values.quantile(0.95))}  # fmt: skip


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def _span(values: pd.Series) -> str:
    """Return the smallest and the largest value, once if they are the same."""
    if not len(values):
        return "-"
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"
