"""Phenotype tables of UK Biobank, in all export formats.

A column is ``<field>-<instance>.<array>`` (``ukbconv csv``), ``p<field>[_i<instance>][_a<array>]``
(research platform, possibly with the prefix ``participant.``) or
``f.<field>.<instance>.<array>`` (``ukbconv r``). Own tables may use ``eid, sex, age, fluid``. Codes
are numbers, or labels on the platform.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.catalog.phenotypes import SEX, Column, Phenotypes, as_code, sex_labels, tidy
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.subject_table import read_subject_table
from fmritok.pipeline.tables.text_table import CSV, TextTable, find_column

__all__ = ["read_ukb_phenotypes"]

_IDS = ("eid", "f.eid", "participant.eid")
_DIALECTS = (
    re.compile(r"^(?P<field>\d+)-(?P<instance>\d+)\.(?P<array>\d+)$"),
    re.compile(r"^(participant\.)?p(?P<field>\d+)(_i(?P<instance>\d+))?(_a(?P<array>\d+))?$"),
    re.compile(r"^f\.(?P<field>\d+)\.(?P<instance>\d+)\.(?P<array>\d+)$"),
)
#: Largest number of further fields read from one table. A whole basket has thousands.
_MOST_FIELDS = 300
_TABLES = (".csv", ".tsv", ".tab", ".txt")
_FIRST_VISIT = 2


@dataclass(frozen=True)
class _Field:
    """A field with a harmonised name.

    Attributes
    ----------
    field : str
    at_visit : bool
        Whether it is measured at each imaging visit. Otherwise the first instance is used.
    about : Column
    plain : tuple of str
        Column names in own tables.
    """

    field: str
    at_visit: bool
    about: Column
    plain: tuple[str, ...] = ()


_FIELDS = {
    "sex": _Field("31", False, SEX, ("sex",)),
    "age": _Field("21003", True, Column("age at the imaging visit", "years", kind="number"),
                  ("age",)),
    "site": _Field("54", True, Column("assessment centre of the imaging visit", kind="text"),
                   ("site",)),
    "fluid_intelligence": _Field("20016", True, Column("fluid intelligence at the imaging visit",
                                                       "of 13", kind="number"),
                                 ("fluid", "fluid_intelligence")),
    "fluid_intelligence_online": _Field("20191", False, Column("fluid intelligence, online",
                                                               "of 14", kind="number")),
    "neuroticism": _Field("20127", False, Column("neuroticism", "of 12", kind="number"),
                          ("neuroticism",)),
    "rest_motion": _Field("25741", True, Column("mean head motion at rest", "mm", kind="number")),
    "task_motion": _Field("25742", True, Column("mean head motion in the task", "mm",
                                                kind="number")),
}  # fmt: skip


def read_ukb_phenotypes(
    root: Path, visits: Collection[tuple[str, str]]
) -> tuple[Phenotypes, list[tuple[Path, str]]]:
    """Read the tables at the root, one row per imaging visit with a run.

    Parameters
    ----------
    root : Path
    visits : collection of (str, str)
        Subject and session.

    Returns
    -------
    Phenotypes
        With ``sex, age, site, fluid_intelligence, ...`` and ``p<field>`` for other fields.
    list of (Path, str)
        Tables that were skipped or only partly read, and reasons.

    Raises
    ------
    CatalogError
        If there are tables but none has ids, or rows do not fit their header.
    """
    left_out: list[tuple[Path, str]] = []
    questioned: list[tuple[Path, str]] = []
    headers: dict[Path, list[str]] = {}
    for path in sorted(root.iterdir()):
        if path.suffix.lower() not in _TABLES or path.name.startswith(".") or path.is_dir():
            continue
        try:
            headers[path] = TextTable(path, CSV, limit=None).header
        except UnreadableError as error:
            questioned.append((path, Remark.NO_PHENOTYPES.with_reason(error)))
    with_ids = [path for path, header in headers.items() if find_column(header, _IDS)]
    left_out += [
        (path, "not a phenotype table: no column eid") for path in headers if path not in with_ids
    ]
    if headers and not with_ids:
        path, header = next(iter(headers.items()))
        raise CatalogError(
            expected("Phenotype table", path, "a column 'eid', 'f.eid' or 'participant.eid'",
                     ", ".join(map(repr, header[:5])), "Export it with ids, or move it away.")
        )  # fmt: skip
    rows = pd.DataFrame(sorted(visits), columns=["subject", "session"], dtype=str)
    described: dict[str, Column] = {}
    known = pd.Series(False, index=rows.index)
    for path in with_ids:
        columns = _wanted(path, headers[path], left_out)
        try:
            table, said = read_subject_table(
                path, CSV, _IDS, columns=set(columns), subjects=set(rows["subject"]), limit=None
            )
        except UnreadableError as error:
            questioned.append((path, Remark.NO_PHENOTYPES.with_reason(error)))
            continue
        questioned += [(path, words) for words in said]
        table = table.set_index("subject")
        known |= rows["subject"].isin(table.index)
        for original, (name, instance) in columns.items():
            values = rows["subject"].map(table[original]).fillna("")
            if instance:
                values = values.where(rows["session"] == instance, "")
            # earlier tables and earlier array items take precedence
            before = rows.get(name, pd.Series("", index=rows.index))
            rows[name] = before.where(before != "", values)
            about = (
                _FIELDS[name].about if name in _FIELDS else Column(f"UK Biobank field {name[1:]}")
            )
            source = f"{path.name}: {original}"
            if name in described and described[name].source:
                source = f"{described[name].source}, {original}"
            described[name] = Column(about.meaning, about.unit, source, about.kind)
    rows = rows[known].reset_index(drop=True)
    if rows.empty:
        return Phenotypes(questioned=questioned), left_out
    if "sex" in rows:
        rows["sex"] = sex_labels(rows["sex"], {"0": "F", "1": "M"})
    if "site" in rows:
        rows["site"] = as_code(rows["site"])
    found = tidy("ukb", rows, described, path=root)
    return replace(found, questioned=[*questioned, *found.questioned]), left_out


def _wanted(
    path: Path, header: list[str], left_out: list[tuple[Path, str]]
) -> dict[str, tuple[str, str]]:
    """Choose the columns to read: ``{column: (name, imaging visit or empty)}``."""
    named: dict[str, tuple[str, str]] = {}
    others: dict[str, re.Match[str]] = {}
    for column in header:
        match = next((m for m in (d.match(column.strip()) for d in _DIALECTS) if m), None)
        name = next((n for n, f in _FIELDS.items() if _is(f, column, match)), None)
        if match is None and name:
            named[column] = (name, "")
        elif match and name:
            at_visit = _FIELDS[name].at_visit
            if at_visit and _visit(match):
                named[column] = (name, match["instance"])
            elif not at_visit and int(match["instance"] or 0) + int(match["array"] or 0) == 0:
                named[column] = (name, "")
        elif match:
            others[column] = match
    if len(others) > _MOST_FIELDS:
        left_out.append((path, f"only the named fields were read of more than {_MOST_FIELDS}: "
                         "select the columns you need into a smaller table"))  # fmt: skip
        return named
    imaged = {match["field"] for match in others.values() if _visit(match)}
    for column, match in others.items():
        name = f"p{match['field']}"
        if not _visit(match) and match["instance"] not in (None, "0"):
            name += f"_i{match['instance']}"
        elif not _visit(match) and match["field"] in imaged:
            name += "_i0"  # p<field> is the value at the imaging visit
        if int(match["array"] or 0):
            name += f"_a{match['array']}"
        named[column] = (name, match["instance"] if _visit(match) else "")
    return named


def _is(field: _Field, column: str, match: re.Match[str] | None) -> bool:
    return column.strip().lower() in field.plain if match is None else match["field"] == field.field


def _visit(match: re.Match[str]) -> bool:
    """Whether a column belongs to an imaging visit."""
    return int(match["instance"] or 0) >= _FIRST_VISIT
