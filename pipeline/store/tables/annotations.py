"""What a store knows of subjects and runs besides tokens: phenotypes, their columns, events.

Tables at the root of the store, replaced together. Writing a cohort replaces the rows of what it
brings, at their places; the rows of other subjects and cohorts stay as they are.
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

#: Each table, and the columns that tell its rows' owners apart.
ANNOTATIONS: dict[str, tuple[str, ...]] = {
    "phenotypes": ("dataset", "subject", "session"),
    "phenotype_columns": ("dataset", "column"),
    "events": ("run_id",),
}
#: Their further columns, with types.
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
    """Merge a cohort's tables into the store's; the caller holds the root.

    A column that is text in one cohort and numbers in another is kept apart: the later one gets the
    name of its dataset behind its own.

    Parameters
    ----------
    location : Location
    tables : dict of str to pd.DataFrame
        By the names of :data:`ANNOTATIONS`.
    anew : dict of str to collection of str, optional
        By table: values of its first key whose old rows go, even if there are no new ones.
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
    """Return a table; an empty one with its key columns if the store has none.

    Raises
    ------
    StoreError
        If it, or anything else that the root's seal covers, is damaged.
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
        If it is no table, or lacks a column.
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
    """Return ``known`` with the rows of ``table`` in the place of those with the same keys.

    Rows with new keys come at the end. Columns keep their types: a column that one of them does not
    have is missing there.

    Parameters
    ----------
    known : pd.DataFrame or None
    table : pd.DataFrame
    keys : sequence of str
        Text columns. Several rows may have the same keys; they are replaced together.
    fill : bool
        Keep a known value where the new row has none; for tables with one row for each key.
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
    """Return a table with known values where it has none."""
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
    """Return new names for columns that hold another kind of values than in the store."""
    if known is None or table.empty:
        return {}
    dataset = str(table["dataset"].iloc[0])
    shared = [n for n in table.columns if n in known and n not in ANNOTATIONS["phenotypes"]]
    kinds = {name: {_kind(known[name]), _kind(table[name])} - {""} for name in shared}
    return {name: f"{name} ({dataset})" for name, both in kinds.items() if len(both) > 1}


def _kind(series: pd.Series) -> str:
    """Tell text, numbers and truth values apart; empty if there is no value."""
    series = typed(series)
    if series.dtype == object:
        return "text" if ((series != "") & series.notna()).any() else ""
    if not series.notna().any():
        return ""
    return "truth" if pd.api.types.is_bool_dtype(series) else "number"


def _nullable(series: pd.Series) -> pd.Series:
    """Return a column in a type that stays what it is beside missing values."""
    series = typed(series.reset_index(drop=True))
    if series.dtype == np.int64:
        return series.astype("Int64")
    return series.astype("boolean") if series.dtype == bool else series


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: typed(table[name]) for name in table.columns})
