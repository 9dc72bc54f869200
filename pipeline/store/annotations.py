"""What a store knows of subjects and runs besides tokens: phenotypes, their columns, events.

Tables at the root of the store, replaced together. Writing a cohort replaces the rows of what it
brings, at their places; the rows of other subjects and cohorts stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.root import create_root
from fmritok.pipeline.store.seal import read_sealed
from fmritok.pipeline.store.switch import replace_tables, table_of
from fmritok.pipeline.store.table import typed

__all__ = ["ANNOTATIONS", "merged", "read_annotation", "write_annotations"]

#: Each table, and the columns that tell its rows' owners apart.
ANNOTATIONS: dict[str, tuple[str, ...]] = {
    "phenotypes": ("dataset", "subject", "session"),
    "phenotype_columns": ("dataset", "column"),
    "events": ("run_id",),
}


def write_annotations(location: Location, tables: Mapping[str, pd.DataFrame]) -> None:
    """Merge a cohort's tables into the store's; the caller holds the root.

    Parameters
    ----------
    location : Location
    tables : dict of str to pd.DataFrame
        By the names of :data:`ANNOTATIONS`; empty ones are left out.
    """
    create_root(location)
    location.remove_partial()
    document, files = read_sealed(location, "")
    changed = {}
    for name, table in tables.items():
        if not table.empty:
            known = table_of(location, document, files, name)
            changed[name] = merged(known, table, keys=ANNOTATIONS[name])
    replace_tables(location, document, changed)


def read_annotation(location: Location, name: str) -> pd.DataFrame:
    """Return a table; an empty one with its key columns if the store has none.

    Raises
    ------
    StoreError
        If it, or anything else that the root's seal covers, is damaged.
    """
    document, files = read_sealed(location, "")
    table = table_of(location, document, files, name)
    if table is None:
        return pd.DataFrame({key: [] for key in ANNOTATIONS[name]}, dtype=object)
    return table


def merged(known: pd.DataFrame | None, table: pd.DataFrame, *, keys: Sequence[str]) -> pd.DataFrame:
    """Return ``known`` with the rows of ``table`` in the place of those with the same keys.

    Rows with new keys come at the end. Columns keep their types: a column that one of them does not
    have is missing there.

    Parameters
    ----------
    known : pd.DataFrame or None
    table : pd.DataFrame
    keys : sequence of str
        Text columns. Several rows may have the same keys; they are replaced together.
    """
    table = pd.DataFrame({name: _nullable(table[name]) for name in table.columns})
    if known is None or known.empty:
        return _typed(table.reset_index(drop=True))
    known = pd.DataFrame({name: _nullable(known[name]) for name in known.columns})
    old = pd.MultiIndex.from_frame(known[list(keys)].astype(str))
    new = pd.MultiIndex.from_frame(table[list(keys)].astype(str))
    first_place: dict[tuple[str, ...], int] = {}
    for place, key in enumerate(old):
        first_place.setdefault(key, place)
    stays = ~old.isin(new)
    places = np.array([first_place.get(key, len(known)) for key in new], np.int64)
    both = pd.concat([known[stays], table], ignore_index=True)
    order = np.argsort(np.concatenate([np.flatnonzero(stays), places]), kind="stable")
    return _typed(both.iloc[order].reset_index(drop=True))


def _nullable(series: pd.Series) -> pd.Series:
    """Return a column in a type that stays what it is beside missing values."""
    series = typed(series.reset_index(drop=True))
    if series.dtype == np.int64:
        return series.astype("Int64")
    return series.astype("boolean") if series.dtype == bool else series


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: typed(table[name]) for name in table.columns})
