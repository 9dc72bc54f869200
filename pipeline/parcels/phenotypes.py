"""Phenotypes of a cohort of parcel time courses, as its YAML file describes their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

import pandas as pd

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.catalog.phenotypes import (
    AGE,
    SEX,
    Column,
    Phenotypes,
    as_code,
    sex_labels,
    tidy,
)
from fmritok.pipeline.parcels.description import PhenotypeTable
from fmritok.pipeline.tables.ages import ages_in_years
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.subject_table import joined_rows, read_subject_table
from fmritok.pipeline.tables.text_numbers import first_examples
from fmritok.pipeline.tables.text_table import CSV, find_column

__all__ = ["read_phenotypes"]

#: Usual names of the column of ids.
_IDS = ("participant_id", "subject", "subject_id", "sub_id", "subid", "id", "eid", "ScanDir ID")
_SESSIONS = ("session_id", "session")
#: Other spellings of a whole number: -9999 is also -9999.0.
_DECIMALS = ("", ".0", ".00")


def read_phenotypes(dataset: str, about: PhenotypeTable, id_digits: int) -> Phenotypes:
    """Read the table of subjects.

    Parameters
    ----------
    dataset : str
    about : PhenotypeTable
    id_digits : int
        Digits to which ids are filled up with zeros; 0 for none.

    Raises
    ------
    CatalogError
        If the table is missing or broken, or lacks a described column.
    """
    try:
        table, said = read_subject_table(
            about.path, CSV, [about.subject] if about.subject else _IDS, prefix="sub-",
            sessions=_SESSIONS, missing=[m + end for m in about.missing for end in _DECIMALS],
        )  # fmt: skip
    except UnreadableError as error:
        raise CatalogError(
            expected("Phenotype table", about.path, "a table of subjects", error,
                     "Correct `phenotypes` in the description of the cohort.")
        ) from error  # fmt: skip
    if id_digits:
        table["subject"] = table["subject"].str.zfill(id_digits)
        table = joined_rows(table, said)
    described: dict[str, Column] = {
        "site": Column("site", kind="text"),
        "family": Column("family", kind="text"),
    }
    for name, theirs in about.columns.items():
        column = find_column(table.columns, [theirs])
        if column is None:
            near = get_close_matches(theirs, [str(c) for c in table], n=1)
            raise CatalogError(
                expected("Phenotype table", about.path, f"a column {theirs!r}, for {name}", "none",
                         f"Did you mean {near[0]}?" if near else "Correct `columns`.")
            )  # fmt: skip
        table = _named(table, column, name)
        if name in about.codes:
            table[name] = _decoded(table[name], about.codes[name])
        described[name] = replace(
            described.get(name, Column()),
            unit=about.units.get(name, ""),
            source=f"{about.path.name}: {column}",
        )
    _harmonise(table, about, described, said)
    found = tidy(dataset, table, described, source=about.path.name, path=about.path)
    questioned = [(about.path, words) for words in said]
    return replace(found, questioned=[*questioned, *found.questioned])


def _named(table: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    """Give a column another name; one that has this name already keeps its values aside."""
    if column == name:
        return table
    if name in table:
        table = table.rename(columns={name: f"{name}_as_given"})
    return table.rename(columns={column: name})


def _decoded(values: pd.Series, codes: Mapping[str, str]) -> pd.Series:
    """Replace codes by their meaning. Other values stay."""
    return as_code(values).map(lambda value: codes.get(value, value))


def _harmonise(
    table: pd.DataFrame, about: PhenotypeTable, described: dict[str, Column], said: list[str]
) -> None:
    """Bring ``sex`` and ``age`` to the form that all cohorts have, in place."""
    if "sex" in table:
        labels = sex_labels(table["sex"])
        unknown = table["sex"][(labels == "") & (table["sex"] != "")]
        if len(unknown):
            said.append(f"{Remark.SEX_UNKNOWN}: {first_examples(unknown)}")
        table["sex"] = labels
        source = described.get("sex", Column()).source
        described["sex"] = replace(SEX, source=source)
    if "age" in table:
        table["age"], doubts = ages_in_years(table["age"], about.units.get("age", ""))
        said += doubts
        described["age"] = replace(AGE, source=described.get("age", Column()).source)
