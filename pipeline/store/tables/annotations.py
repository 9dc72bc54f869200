"""Annotations of a store: phenotypes, descriptions of their columns, and events.

They are tables at the root, replaced together. Writing a cohort replaces the rows of its subjects
and runs in place. Rows of other subjects and cohorts stay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.documents.root import create_root
from fmritok.pipeline.store.documents.seal import Document, read_sealed
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.tables.runs_check import check_columns
from fmritok.pipeline.store.tables.switch import replace_tables, table_of
from fmritok.pipeline.store.tables.table import typed

__all__ = ["ANNOTATIONS", "annotation_of", "merged", "read_annotation", "write_annotations"]

#: Tables and their key columns.
ANNOTATIONS: dict[str, tuple[str, ...]] = {
    "phenotypes": ("dataset", "subject", "session"),
    "phenotype_columns": ("dataset", "column"),
    "events": ("run_id",),
}
#: Further columns of the tables, with types.
_FURTHER: dict[str, dict[str, str]] = {
    "phenotypes": {},
    "phenotype_columns": dict.fromkeys(("dtype", "unit", "source", "meaning"), "text"),
    "events": {"onset": "number", "duration": "number", "trial_type": "text"},
}


def write_annotations(
    location: Location,
    tables: Mapping[str, pd.DataFrame],
    *,
    anew: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Merge the tables of a cohort into those of the store. The caller holds the root.

    If a column is text in one cohort and numbers in another, the new column is renamed to ``COLUMN
    (DATASET)``.

    Parameters
    ----------
    location : Location
    tables : dict of str to pd.DataFrame
        Tables by name; see :data:`ANNOTATIONS`.
    anew : dict of str to collection of str, optional
        By table: values of its first key. Their old rows are removed even without new rows.
    """
    create_root(location)
    location.remove_partial()
    document, files = read_sealed(location, "")
    changed, apart = {}, dict[str, str]()
    for name, table in tables.items():
        known = annotation_of(location, document, files, name)
        if known is not None and anew and name in anew:
            first = ANNOTATIONS[name][0]
            stays = ~known[first].isin(set(anew[name]) - set(table.get(first, ())))
            known = changed[name] = known[stays].reset_index(drop=True)
        if table.empty:
            continue
        if name == "phenotypes":
            apart = _apart(known, table)
            table = table.rename(columns=apart)
        elif name == "phenotype_columns":
            table = table.assign(column=table["column"].replace(apart))
        changed[name] = merged(known, table, keys=ANNOTATIONS[name], fill=name == "phenotypes")
    replace_tables(location, document, changed)


def read_annotation(location: Location, name: str) -> pd.DataFrame:
    """Return a table; empty, with its key columns, if the store does not have it.

    Raises
    ------
    StoreError
        If it, or another file in the root's seal, is damaged.
    """
    document, files = read_sealed(location, "")
    table = annotation_of(location, document, files, name)
    if table is None:
        return pd.DataFrame({key: [] for key in ANNOTATIONS[name]}, dtype=object)
    return table


def annotation_of(
    location: Location, document: Document, files: Mapping[str, bytes], name: str
) -> pd.DataFrame | None:
    """Return a table from the sealed files of the root; None if there is none.

    Raises
    ------
    StoreError
        If it is not a table, or lacks a column.
    """
    table = table_of(location, document, files, name)
    if table is None:
        return None
    try:
        check_columns(table, dict.fromkeys(ANNOTATIONS[name], "text") | _FURTHER[name])
    except ValueError as error:
        raise StoreError(
            expected("Table", f"{location}/{document.key(name)}", "one that fmritok wrote", error,
                     "Restore the store from a copy.")
        ) from error  # fmt: skip
    return table


def merged(
    known: pd.DataFrame | None, table: pd.DataFrame, *, keys: Sequence[str], fill: bool = False
) -> pd.DataFrame:
    """Merge two tables: rows of ``table`` replace rows of ``known`` with the same keys.

    Rows with new keys are appended. Columns keep their types. Columns of only one table are missing
    in the rows of the other.

    Parameters
    ----------
    known : pd.DataFrame or None
    table : pd.DataFrame
    keys : sequence of str
        Text columns. All rows with the same keys are replaced together.
    fill : bool
        Whether missing values of a new row keep the known value. Needs unique keys.
    """
    table = pd.DataFrame({name: _nullable(table[name]) for name in table.columns})
    if known is None or known.empty:
        return _typed(table.reset_index(drop=True))
    known = pd.DataFrame({name: _nullable(known[name]) for name in known.columns})
    old = pd.MultiIndex.from_frame(known[list(keys)].astype(str))
    new = pd.MultiIndex.from_frame(table[list(keys)].astype(str))
    if fill and new.is_unique and old.is_unique:
        table = _filled(table, new, known, old)
    first_place: dict[tuple[str, ...], int] = {}
    for place, key in enumerate(old):
        first_place.setdefault(key, place)
    stays = ~old.isin(new)
    places = np.array([first_place.get(key, len(known)) for key in new], np.int64)
    both = pd.concat([known[stays], table], ignore_index=True)
    order = np.argsort(np.concatenate([np.flatnonzero(stays), places]), kind="stable")
    return _typed(both.iloc[order].reset_index(drop=True))


def _filled(
    table: pd.DataFrame, new: pd.MultiIndex, known: pd.DataFrame, old: pd.MultiIndex
) -> pd.DataFrame:
    """Return a table with its missing values filled from known rows with the same keys."""
    places = old.get_indexer(new)
    columns: dict[str, Any] = {}
    for name in [*table.columns, *(n for n in known.columns if n not in table.columns)]:
        before = known[name].astype(object).tolist() if name in known else []
        values = table[name].astype(object).tolist() if name in table else [None] * len(table)
        for row, place in enumerate(places.tolist()):
            if name in known and place >= 0 and (pd.isna(values[row]) or values[row] == ""):
                is_known = not pd.isna(before[place]) and before[place] != ""
                values[row] = before[place] if is_known else values[row]
        columns[name] = _nullable(pd.Series(values, dtype=object))
    return pd.DataFrame(columns)


def _apart(known: pd.DataFrame | None, table: pd.DataFrame) -> dict[str, str]:
    """Return new names for columns with another kind of values than in the store."""
    if known is None or table.empty:
        return {}
    dataset = str(table["dataset"].iloc[0])
    shared = [n for n in table.columns if n in known and n not in ANNOTATIONS["phenotypes"]]
    kinds = {name: {_kind(known[name]), _kind(table[name])} - {""} for name in shared}
    return {name: f"{name} ({dataset})" for name, both in kinds.items() if len(both) > 1}


def _kind(series: pd.Series) -> str:
    """Return the kind of a column: text, numbers or booleans; empty if it has no value."""
    series = typed(series)
    if series.dtype == object:
        return "text" if ((series != "") & series.notna()).any() else ""
    if not series.notna().any():
        return ""
    return "truth" if pd.api.types.is_bool_dtype(series) else "number"


def _nullable(series: pd.Series) -> pd.Series:
    """Return a column as a nullable type."""
    series = typed(series.reset_index(drop=True))
    if series.dtype == np.int64:
        return series.astype("Int64")
    return series.astype("boolean") if series.dtype == bool else series


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: typed(table[name]) for name in table.columns})
