"""Phenotypes: typed by what is in the tables, harmonised, described column by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from fmritok.pipeline.errors import CatalogError, expected

__all__ = ["AGE", "SEX", "Column", "Phenotypes", "as_code", "sex_labels", "tidy"]

_FIRST = ("sex", "age")
_DESCRIPTION = ["dataset", "column", "dtype", "unit", "source", "meaning"]


@dataclass(frozen=True)
class Column:
    """What one phenotype column is.

    Attributes
    ----------
    meaning, unit : str
    source : str
        File and column that it comes from.
    kind : {"number", "text", ""}
        What its values must be; if empty, numbers where all of them are.
    """

    meaning: str = ""
    unit: str = ""
    source: str = ""
    kind: Literal["number", "text", ""] = ""


SEX = Column("sex: F or M", kind="text")
AGE = Column("age", unit="years", kind="number")


@dataclass(frozen=True)
class Phenotypes:
    """Tidy phenotypes of a cohort.

    Attributes
    ----------
    table : pd.DataFrame
        ``dataset, subject, session`` and typed columns; the session is empty where a row holds
        for all of them.
    columns : pd.DataFrame
        ``dataset, column, dtype, unit, source, meaning``, one row per further column.
    """

    table: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["dataset", "subject", "session"], dtype=str)
    )
    columns: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=_DESCRIPTION, dtype=str)
    )


def as_code(values: pd.Series) -> pd.Series:
    """Bring whole numbers to one spelling, such as ``1`` for ``1.0``; other text stays."""
    return values.str.strip().str.replace(r"^([+-]?\d+)\.0*$", r"\1", regex=True)


def sex_labels(values: pd.Series, codes: Mapping[str, str] | None = None) -> pd.Series:
    """Bring sex to ``F`` and ``M``, and whatever else to empty text.

    Parameters
    ----------
    values : pd.Series
        Text: letters or words in any case.
    codes : mapping, optional
        What numbers mean, if they mean anything: ``{"0": "F", "1": "M"}``.
    """
    known = {"f": "F", "female": "F", "m": "M", "male": "M", **(codes or {})}
    return as_code(values).str.lower().map(known).fillna("").astype(str)


def tidy(
    dataset: str,
    table: pd.DataFrame,
    described: Mapping[str, Column],
    *,
    source: str | Mapping[str, str] = "",
) -> Phenotypes:
    """Type a table of text, put the harmonised columns first, and describe each.

    Parameters
    ----------
    dataset : str
    table : pd.DataFrame
        Text, with ``subject`` and possibly ``session``.
    described : mapping of str to Column
        What is known of the columns; others are typed by their values.
    source : str or mapping of str to str
        Where columns come from that do not say so themselves.

    Raises
    ------
    CatalogError
        If a column of numbers holds something else.
    """
    table = table.rename(columns={"dataset": "dataset_in_table"})
    keys = ("subject", "session")
    names = [c for c in _FIRST if c in table]
    names += [str(c) for c in table if c not in _FIRST and c not in keys]
    out: dict[str, pd.Series] = {
        "dataset": pd.Series([dataset] * len(table), dtype=str),
        "subject": table["subject"].reset_index(drop=True),
        "session": pd.Series([""] * len(table), dtype=str)
        if "session" not in table
        else table["session"].reset_index(drop=True),
    }
    rows = []
    for name in names:
        about = described.get(name, Column())
        values = _typed(table[name].reset_index(drop=True), name, about, dataset)
        out[name] = values
        dtype = str(values.dtype) if values.dtype.kind in "if" else "str"
        known = source if isinstance(source, str) else source.get(name, "")
        rows.append((dataset, name, dtype, about.unit, about.source or known, about.meaning))
    return Phenotypes(pd.DataFrame(out), pd.DataFrame(rows, columns=_DESCRIPTION, dtype=str))


def _typed(values: pd.Series, name: str, about: Column, dataset: str) -> pd.Series:
    if about.kind == "text":
        return values
    present = values != ""
    numbers = pd.to_numeric(values.where(present), errors="coerce").astype(np.float64)
    wrong = present & ~np.isfinite(numbers)
    if about.kind == "number":
        if wrong.any():
            raise CatalogError(
                expected(f"Phenotype column {name} of", dataset, "numbers or nothing",
                         repr(values[wrong].iloc[0]), "Correct the table.")
            )  # fmt: skip
        return numbers
    # 007 is an id or a code, not seven
    if wrong.any() or values.str.match(r"[+-]?0\d").any() or not present.any():
        return values
    whole = present.all() and not values.str.contains(r"[.eE]").any()
    if whole and numbers.abs().max() >= 2**53:
        return values  # ids: as numbers they would lose digits
    return numbers.astype(np.int64) if whole else numbers
