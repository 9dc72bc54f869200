"""What a store knows of subjects and runs besides tokens: phenotypes, their columns, events.

Tables at the root of the store. Writing a cohort replaces the rows of what it brings; the rows of
other subjects and cohorts stay.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.schema import open_root
from fmritok.pipeline.store.table import read_table, write_table
from fmritok.pipeline.store.verify import seal_root, unseal

__all__ = ["ANNOTATIONS", "read_annotation", "write_annotations"]

#: Each table, and the columns that tell its rows' owners apart.
ANNOTATIONS: dict[str, tuple[str, ...]] = {
    "phenotypes": ("dataset", "subject", "session"),
    "phenotype_columns": ("dataset", "column"),
    "events": ("run_id",),
}


def write_annotations(location: Location, tables: Mapping[str, pd.DataFrame]) -> None:
    """Merge a cohort's tables into the store's.

    Parameters
    ----------
    location : Location
    tables : dict of str to pd.DataFrame
        By the names of :data:`ANNOTATIONS`; empty ones are left out.
    """
    root = open_root(location, create=True)
    for name, table in tables.items():
        if table.empty:
            continue
        keys = list(ANNOTATIONS[name])
        known = read_annotation(location, name)
        if len(known):
            mine = pd.MultiIndex.from_frame(table[keys].astype(str))
            others = known[~pd.MultiIndex.from_frame(known[keys].astype(str)).isin(mine)]
            table = pd.concat([others, table], ignore_index=True)
        unseal(root)
        write_table(root, name, table)
    if root.attrs.get("seal") is None:
        seal_root(location)


def read_annotation(location: Location, name: str) -> pd.DataFrame:
    """Return a table; an empty one with its key columns if the store has none."""
    root = open_root(location)
    if name not in root:
        return pd.DataFrame({key: [] for key in ANNOTATIONS[name]}, dtype=object)
    return read_table(root[name])  # type: ignore[arg-type]
