"""Phenotypes: typed by what is in the tables, harmonised, described column by column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.text_numbers import PLACEHOLDERS, first_examples, text_to_numbers

__all__ = [
    "AGE", "SEX", "Column", "Phenotypes", "as_code", "sex_labels", "showable", "tidy",
]  # fmt: skip

_FIRST = ("sex", "age")
_DESCRIPTION = ["dataset", "column", "dtype", "unit", "source", "meaning"]
#: In a column of numbers, at most so many of the values may be something else.
_MOST_ODD = 0.1
#: Control characters, halves of characters, and those that turn the direction of text.
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


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
    questioned : list of (Path, str)
        Tables with something doubtful in them, or that could not be read, and what it is.
    """

    table: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["dataset", "subject", "session"], dtype=str)
    )
    columns: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=_DESCRIPTION, dtype=str)
    )
    questioned: list[tuple[Path, str]] = field(default_factory=list)


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


def showable(text: str) -> bool:
    """Tell whether text can be shown as it is, without control characters."""
    return _UNSHOWABLE.search(text) is None


def tidy(
    dataset: str,
    table: pd.DataFrame,
    described: Mapping[str, Column],
    *,
    source: str | Mapping[str, str] = "",
    path: Path,
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
    path : Path
        The table, or the folder of several: where doubtful values are looked for.
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
    said: dict[str, list[str]] = {}
    for name in names:
        about = described.get(name, Column())
        values = _typed(table[name].reset_index(drop=True), name, about, said)
        known = source if isinstance(source, str) else source.get(name, "")
        shown = name
        if not showable(name):
            shown = _UNSHOWABLE.sub("_", name)
            while shown in out or shown in names:
                shown += "_"
            said.setdefault(Remark.COLUMN_NAME, []).append(shown)
        out[shown] = values
        dtype = str(values.dtype) if values.dtype.kind in "if" else "str"
        rows.append((dataset, shown, dtype, about.unit, about.source or known, about.meaning))
    columns = pd.DataFrame(rows, columns=_DESCRIPTION, dtype=str)
    questioned = [(path, f"{remark}: {'; '.join(which)}") for remark, which in said.items()]
    return Phenotypes(pd.DataFrame(out), columns, questioned)


def _typed(values: pd.Series, name: str, about: Column, said: dict[str, list[str]]) -> pd.Series:
    """Return a column as numbers or as text, and say what of it could not be told."""
    if about.kind == "text":
        return values
    present = values != ""
    numbers, odd, commas = text_to_numbers(values)
    if about.kind != "number":
        # 007 is an id or a code, not seven; ids of 16 digits would lose some of them
        codes = values.str.match(r"[+-]?0[0-9]").any() or (numbers.abs() >= 2**53).any()
        words = odd & ~values.str.lower().isin(PLACEHOLDERS)
        n_numbers = int((present & ~odd).sum())
        if codes or not n_numbers or words.sum() > _MOST_ODD * present.sum():
            if values[words].str.fullmatch("[+-]?[0-9]{1,3},[0-9]{3}").any():
                said.setdefault(Remark.EITHER_COMMAS, []).append(name)
            elif n_numbers > words.sum() > 0:
                examples = f"{name} ({first_examples(values[words])})"
                said.setdefault(Remark.MIXED, []).append(examples)
            return values
    if odd.any():
        said.setdefault(Remark.NOT_NUMBERS, []).append(f"{name} ({first_examples(values[odd])})")
    if commas:
        said.setdefault(Remark.COMMAS, []).append(name)
    if about.kind == "number":
        return numbers
    whole = present.all() and values.str.fullmatch("[+-]?[0-9]+").all()
    return numbers.astype(np.int64) if whole else numbers
