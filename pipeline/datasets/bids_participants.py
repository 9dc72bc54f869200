"""Phenotypes of a BIDS data set from ``participants.tsv`` and ``*_sessions.tsv``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fmritok.pipeline.catalog.phenotypes import AGE, SEX, Column, Phenotypes, sex_labels, tidy
from fmritok.pipeline.tables.ages import ages_in_years
from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import UnreadableError, read_json
from fmritok.pipeline.tables.subject_table import read_subject_table
from fmritok.pipeline.tables.text_numbers import first_examples, text_to_numbers
from fmritok.pipeline.tables.text_table import BIDS, find_column

__all__ = ["read_participants"]

_SESSIONS = ("session_id", "ses", "session", "ses_id")
_FAMILY = ("family", "family_id", "familyid")
_NO_SEX = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown", "other", "o", "u"})
Questioned = list[tuple[Path, str]]


def read_participants(
    dataset: str, folders: Sequence[Path], sessions: Iterable[Path] = ()
) -> Phenotypes:
    """Read the first ``participants.tsv`` in a list of folders, and the sessions tables.

    Units and meanings come from the JSON file beside each table.

    Parameters
    ----------
    dataset : str
    folders : sequence of Path
    sessions : iterable of Path
        Files ``sub-SUBJECT/sub-SUBJECT_sessions.tsv``.

    Raises
    ------
    CatalogError
        If the table has no ids.
    """
    path = next((p for p in (f / "participants.tsv" for f in folders) if os.path.lexists(p)), None)
    questioned: Questioned = []
    parts: list[pd.DataFrame] = []
    about: dict[str, Any] = {}
    if path is not None:
        about = _description(path.with_suffix(".json"), questioned)
        try:
            table, said = read_subject_table(
                path, BIDS, ["participant_id"], prefix="sub-", sessions=_SESSIONS
            )
            parts.append(_harmonised(table, about, said))
            questioned += [(path, words) for words in said]
        except UnreadableError as error:
            questioned.append((path, Remark.NO_PHENOTYPES.with_reason(error)))
    source = path or folders[0]
    described = _described(parts, about, source.name)
    for place in sessions:
        about = _session_description(place, questioned)
        try:
            table, said = read_subject_table(place, BIDS, ["session_id"], prefix="ses-")
        except UnreadableError as error:
            questioned.append((place, Remark.NO_PHENOTYPES.with_reason(error)))
            continue
        table = table.rename(columns={"subject": "session"})
        table["subject"] = place.parent.name.removeprefix("sub-")
        parts.append(_harmonised(table, about, said))
        questioned += [(place, words) for words in said]
        described = {**_described(parts[-1:], about, "*_sessions.tsv"), **described}
    if not parts:
        return Phenotypes(questioned=questioned)
    table = pd.concat(parts, ignore_index=True).fillna("")
    found = tidy(dataset, table, described, path=source)
    return Phenotypes(found.table, found.columns, [*questioned, *found.questioned])


def _session_description(path: Path, questioned: Questioned) -> dict[str, Any]:
    """Return the JSON description of a sessions table: its own, else that of all subjects."""
    own = path.with_suffix(".json")
    common = path.parent.parent / "sessions.json"
    return _description(own if os.path.lexists(own) else common, questioned)


def _harmonised(table: pd.DataFrame, about: Mapping[str, Any], said: list[str]) -> pd.DataFrame:
    """Add harmonised columns for sex, age, site and family. Original columns are kept."""
    sex = find_column(table.columns, ["sex", "gender"])
    if sex:
        levels = _field(about, sex).get("Levels")
        table, original = _aside(table, sex, "sex")
        given = table[original]
        table["sex"] = sex_labels(given, _codes(levels))
        unknown = given[(table["sex"] == "") & ~given.str.lower().isin(_NO_SEX)]
        if len(unknown):
            said.append(f"{Remark.SEX_UNKNOWN}: {first_examples(unknown)}")
    age = find_column(table.columns, ["age", "age_years"])
    if age:
        unit = "" if age.lower() == "age_years" else _text(_field(about, age).get("Units"))
        table, original = _aside(table, age, "age")
        years, doubts = ages_in_years(table[original], unit)
        said += doubts
        if (years != "").any() or (table[original] == "").all():
            table["age"] = years
    site = find_column(table.columns, ["site", "site_id"])
    if site:
        table["site"] = table[site]
    family = find_column(table.columns, _FAMILY)
    if family:
        table["family"] = table[family]
    return table


def _described(
    parts: list[pd.DataFrame], about: Mapping[str, Any], source: str
) -> dict[str, Column]:
    described: dict[str, Column] = {}
    for table in parts:
        for name in map(str, table):
            original = name.removesuffix("_as_given")
            described[name] = _column(_field(about, original), f"{source}: {original}")
            if name != original and text_to_numbers(table[name])[1].any():
                described[name] = replace(described[name], kind="text")
        sex = find_column(table.columns, ["sex_as_given", "gender"]) or "sex"
        age = find_column(table.columns, ["age_as_given", "age_years"]) or "age"
        site = find_column(table.columns, ["site_id"]) or "site"
        family = find_column(table.columns, _FAMILY[1:]) or "family"
        for name, column, kept in (("sex", sex, SEX), ("age", age, AGE),
                                   ("site", site, Column("site", kind="text")),
                                   ("family", family, Column("family", kind="text"))):  # fmt: skip
            if name in table:
                given = f"{source}: {column.removesuffix('_as_given')}"
                described[name] = Column(kept.meaning, kept.unit, given, kept.kind)
    return described


def _aside(table: pd.DataFrame, column: str, name: str) -> tuple[pd.DataFrame, str]:
    """Rename an original column if a harmonised column has the same name."""
    if column != name:
        return table, column
    kept = f"{name}_as_given"
    return table.rename(columns={column: kept}), kept


def _codes(levels: Any) -> dict[str, str]:
    """Return the meaning of codes of sex. A plain list of levels has no meanings."""
    codes = {}
    for code, label in levels.items() if isinstance(levels, dict) else ():
        text = label.get("Description") if isinstance(label, dict) else label
        found = sex_labels(pd.Series([_text(text)])).iloc[0]
        if found:
            codes[str(code).lower()] = found
    return codes


def _column(about: Mapping[str, Any], source: str) -> Column:
    meaning = _text(about.get("Description")) or _text(about.get("LongName"))
    return Column(meaning, _text(about.get("Units")), source)


def _field(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the description of a column, if it has a known form."""
    found = about.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """Return a description as text. Numbers become text, other types become empty."""
    is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return str(value) if is_plain else ""


def _description(path: Path, questioned: Questioned) -> dict[str, Any]:
    try:
        return read_json(path)
    except UnreadableError as error:
        if str(error) != Reason.MISSING:
            questioned.append((path, Remark.NO_DESCRIPTION.with_reason(error)))
        return {}
