"""What a store holds, as a reader sees it, to be compared with what it should hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import zarr
from tiny import fmritok

from fmritok.errors import FmritokError
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore

#: Tables of the whole store: how they are read.
TABLES = ("phenotypes", "phenotype_columns", "events")
#: Attributes that are about the writing, not about what was written.
_OF_WRITING = ("contract", "notes", "format", "format_version")
#: Columns that the table of runs may still lack for a run whose record is newer than the table.
_FOLDED_LATER = ("checksum", "source_sha256")


@dataclass(frozen=True)
class Refused:
    """One clear error in place of an answer."""

    message: str


@dataclass
class Picture:
    """What readers see of a store.

    Attributes
    ----------
    tables : dict of str to pd.DataFrame or Refused
        Of the whole store.
    runs : dict of str to pd.DataFrame or Refused
        Finished runs, by group.
    values : dict of (str, str) to np.ndarray or Refused
        Tokens, by group and run.
    more : dict of str to object
        What only a finished store is compared by.
    refused : str
        Why the store could not be opened; empty if it could.
    """

    tables: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


def look(url: str, clear: type[Exception] = FmritokError) -> Picture:
    """Read tables and tokens; clear errors are kept, any other is raised."""

    def _or_refused(ask: Any) -> Any:
        try:
            return ask()
        except clear as error:
            return Refused(str(error))

    try:
        store = TokenStore(url)
    except clear as error:
        return Picture(refused=str(error))
    picture = Picture()
    for name in TABLES:
        picture.tables[name] = _or_refused(lambda name=name: getattr(store, name))
    for name in store.groups:
        group = _or_refused(lambda name=name: store.group(name))
        runs = group if isinstance(group, Refused) else _or_refused(lambda g=group: g.runs)
        picture.runs[name] = runs
        if not isinstance(runs, Refused):
            for run_id in runs["run_id"]:
                values = _or_refused(lambda g=group, r=run_id: g.values(r))
                picture.values[name, run_id] = values
    return picture


def study(url: str) -> Picture:
    """Read everything of a finished store."""
    picture = look(url)
    more = picture.more
    told = json.loads(fmritok("inspect", "--store", url, "--json").output)
    more["inspect: runs"] = told["runs"]
    location = Location(url)
    root = zarr.open_group(url, mode="r")
    more["attributes"] = {k: root.attrs[k] for k in _OF_WRITING if k in root.attrs}
    for name, runs in picture.runs.items():
        group = root[name]
        more[f"{name}: attributes"] = {k: group.attrs[k] for k in _OF_WRITING if k in group.attrs}
        more[f"{name}: records"] = _records(location, name)
        for key, array in sorted(group.arrays()):
            about = (array.shape, str(array.dtype), array.chunks, array.shards)
            more[f"{name}/{key}: array"] = about
            if str((array.metadata.dimension_names or ("",))[0]) not in ("run", "frame"):
                more[f"{name}/{key}"] = array[:].tolist()
            elif key != "tokens" and not isinstance(runs, Refused):
                more[f"{name}/{key}"] = [array[int(row)].tolist() for row in runs["row"]]
    return picture


def differences(found: Picture, wanted: Picture) -> Iterator[str]:
    """Tell where a finished store is not what it should be."""
    if found.refused:
        yield f"it cannot be opened: {found.refused}"
        return
    for what in ("tables", "runs", "values"):
        here, there = getattr(found, what), getattr(wanted, what)
        if list(here) != list(there):
            yield f"{what}: {list(here)} instead of {list(there)}"
        for name in here.keys() & there.keys():
            if not _equal(here[name], there[name]):
                yield f"{what} {name}: {_compared(here[name], there[name])}"
    for name in wanted.more.keys() | found.more.keys():
        if found.more.get(name) != wanted.more.get(name):
            yield (
                f"{name}: {_brief(found.more.get(name))} instead of {_brief(wanted.more.get(name))}"
            )


def mixtures(found: Picture, old: Picture, new: Picture) -> Iterator[str]:
    """Tell what a reader saw in between that was neither the old store nor the new one."""
    if found.refused:
        return
    known = {name: t for name, t in found.tables.items() if not isinstance(t, Refused)}
    ages = {
        name: {
            age for age, other in (("old", old), ("new", new))
            if _equal(table, other.tables.get(name, _nothing(name)))
        }
        for name, table in known.items()
    }  # fmt: skip
    for name, either in ages.items():
        if not either:
            yield f"table {name} is neither the old nor the new one: {_brief(known[name])}"
    if all(ages.values()) and ages and not set.intersection(*ages.values()):
        yield f"tables are of different times: { {n: min(a) for n, a in ages.items()} }"
    for group, runs in found.runs.items():
        if isinstance(runs, Refused):
            continue
        rows = [_rows(p.runs.get(group)) for p in (old, new)]
        for row in runs.to_dict("records"):
            if not any(_same_row(row, known.get(row["run_id"])) for known in rows):
                yield f"{group}: row of run {row['run_id']} is neither the old nor the new one"
    for key, values in found.values.items():
        if isinstance(values, Refused):
            continue
        if not any(_equal(values, p.values.get(key)) for p in (old, new)):
            yield f"values of {key} are neither the old nor the new ones"


def _records(location: Location, group: str) -> dict[str, Any]:
    """Return what records say of what they cover, by run; times are left out."""
    found = {}
    for key in location.find(f"{group}/records"):
        try:
            attributes = json.loads(location.read(key))["attributes"]
        except (ValueError, KeyError, TypeError):
            continue
        if "checksums" in attributes:
            left_out = ("seconds", "digest", "traceback", "reason")
            found[attributes["run_id"]] = {k: v for k, v in attributes.items() if k not in left_out}
    return dict(sorted(found.items()))


def _nothing(name: str) -> pd.DataFrame:
    """Return the table of a store that has none of that name."""
    return pd.DataFrame()


def _rows(runs: Any) -> Mapping[str, dict[str, Any]]:
    if runs is None or isinstance(runs, Refused):
        return {}
    return {row["run_id"]: row for row in runs.to_dict("records")}


def _same_row(row: dict[str, Any], known: dict[str, Any] | None) -> bool:
    if known is None or row.keys() != known.keys():
        return False
    return all(
        row[name] == known[name]
        or (name in _FOLDED_LATER and row[name] == "")
        or (pd.isna(row[name]) and pd.isna(known[name]))
        for name in row
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame):
        if not len(one) and not len(other):
            return True
        try:
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        except AssertionError:
            return False
        return True
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(type(one) is type(other) and one == other)


def _compared(one: Any, other: Any) -> str:
    if isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame):
        if list(one) != list(other) or len(one) != len(other):
            return f"{len(one)} rows of {list(one)} instead of {len(other)} of {list(other)}"
        column = next(c for c in one if not _equal(one[[c]], other[[c]]))
        one, other = one[column], other[column]
        return f"{column} {one.tolist()} ({one.dtype}) instead of {other.tolist()} ({other.dtype})"
    return f"{_brief(one)} instead of {_brief(other)}"


def _brief(value: Any) -> str:
    text = value.to_dict("list") if isinstance(value, pd.DataFrame) else value
    return str(text)[:160]
