"""Phenotypes: typed by their values, harmonised, with a description of each column."""

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
#: Largest share of other values in a column of numbers.
_MOST_ODD = 0.1
#: Control characters, surrogates, and characters that change the direction of text.
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Column:
    """Description of one phenotype column.

    Attributes
    ----------
    meaning, unit : str
    source : str
        Original file and column.
    kind : {"number", "text", ""}
        Required type. Empty: numbers if all values are numbers.
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
        ``dataset, subject, session`` and typed columns. ``session`` is empty in rows for all
        sessions.
    columns : pd.DataFrame
        ``dataset, column, dtype, unit, source, meaning``, one row per further column.
    questioned : list of (Path, str)
        Doubtful or unreadable tables, and reasons.
    """

    table: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["dataset", "subject", "session"], dtype=str)
    )
    columns: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=_DESCRIPTION, dtype=str)
    )
    questioned: list[tuple[Path, str]] = field(default_factory=list)


def as_code(values: pd.Series) -> pd.Series:
    """Normalize whole numbers, such as ``1.0`` to ``1``. Other text stays."""
    return values.str.strip().str.replace(r"^([+-]?\d+)\.0*$", r"\1", regex=True)


def sex_labels(values: pd.Series, codes: Mapping[str, str] | None = None) -> pd.Series:
    """Convert sex to ``F`` and ``M``. Everything else becomes empty text.

    Parameters
    ----------
    values : pd.Series
        Text: letters or words in any case.
    codes : mapping, optional
        Meaning of numeric codes: ``{"0": "F", "1": "M"}``.
    """
    known = {"f": "F", "female": "F", "m": "M", "male": "M", **(codes or {})}
    return as_code(values).str.lower().map(known).fillna("").astype(str)


def showable(text: str) -> bool:
    """Whether text can be printed: it has no control characters."""
    return _UNSHOWABLE.search(text) is None


def tidy(
    dataset: str,
    table: pd.DataFrame,
    described: Mapping[str, Column],
    *,
    source: str | Mapping[str, str] = "",
    path: Path,
) -> Phenotypes:
    """Convert a table of text to typed columns with descriptions, harmonised columns first.

    Parameters
    ----------
    dataset : str
    table : pd.DataFrame
        Text, with ``subject`` and possibly ``session``.
    described : mapping of str to Column
        Descriptions of known columns. Others are typed by their values.
    source : str or mapping of str to str
        Source of columns without a source in their description.
    path : Path
        The table, or the folder of several tables, for reports of doubtful values.
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
    """Convert a column to numbers or text, and return remarks on ambiguous values."""
    if about.kind == "text":
        return values
    present = values != ""
    numbers, odd, commas = text_to_numbers(values)
    if about.kind != "number":
        # 007 is an id or a code; ids of 16 digits would lose digits
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
