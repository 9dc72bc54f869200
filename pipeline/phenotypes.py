"""Phenotype tables: read as text, typed by what is in them, described column by column."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from fmritok.pipeline.errors import CatalogError, expected

__all__ = [
    "AGE", "MISSING", "SEX", "Column", "Phenotypes", "as_code", "find_column", "read_header_line",
    "read_text_table", "sex_labels", "tidy",
]  # fmt: skip

#: What stands for a missing value in any cohort's tables, besides its own codes.
MISSING = frozenset({"", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "#N/A"})
_FIRST = ("sex", "age")
_DESCRIPTION = ["dataset", "column", "dtype", "unit", "source", "meaning"]
_ROWS_AT_ONCE = 50_000


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


def find_column(header: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of the wanted columns that a table has, whatever its case."""
    present = {column.strip().lower(): column for column in header}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def read_header_line(path: Path) -> list[str]:
    """Return the columns of a table.

    Raises
    ------
    CatalogError
        If the file cannot be read, or its rows have more fields than its header.
    """
    return _start(path)[1]


def read_text_table(
    path: Path,
    ids: Sequence[str],
    *,
    missing: Collection[str] = MISSING,
    columns: Collection[str] | None = None,
    subjects: Collection[str] | None = None,
) -> pd.DataFrame:
    """Read a table of subjects as text, so that no id loses its zeros.

    Comma, tab and semicolon, UTF-8 (with or without a mark) and Latin-1 are told by themselves.

    Parameters
    ----------
    path : Path
    ids : sequence of str
        Names that the id column may have, in any case.
    missing : collection of str
        What stands for a missing value; it becomes ``""``.
    columns : collection of str, optional
        The columns to read besides the id; default: all.
    subjects : collection of str, optional
        The subjects to keep; default: all. Tables of half a million rows are read in parts.

    Returns
    -------
    pd.DataFrame
        Text, with the ids in a column ``subject``.

    Raises
    ------
    CatalogError
        If the table cannot be read, has no id column, a row without an id, or a subject twice.
    """
    separator, header = _start(path)
    id_column = find_column(header, ids)
    if id_column is None:
        raise CatalogError(
            expected("Phenotype table", path, f"a column {' or '.join(map(repr, ids))}",
                     ", ".join(map(repr, header[:5])) + ", ...", "Check the file.")
        )  # fmt: skip
    wanted = None if columns is None else [c for c in header if c in columns or c == id_column]
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            parts = []
            for part in pd.read_csv(
                path, sep=separator, dtype=str, na_filter=False, encoding=encoding,
                usecols=wanted, index_col=False, chunksize=_ROWS_AT_ONCE,
            ):  # fmt: skip
                part[id_column] = part[id_column].str.strip().str.replace(r"\.0$", "", regex=True)
                keep = part[id_column] != "" if subjects is None else part[id_column].isin(subjects)
                empty = (part == "").all(axis=1)
                if subjects is None and not (keep | empty).all():
                    raise CatalogError(
                        expected("Phenotype table", path, f"an id ({id_column}) in each row",
                                 "a row without one", "Complete it, or remove the row.")
                    )  # fmt: skip
                parts.append(part[keep])
            break
        except UnicodeDecodeError:
            continue  # Latin-1 reads anything
        except (ValueError, OSError) as error:
            if isinstance(error, CatalogError):
                raise
            raise _unreadable(path, error) from error
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=header)
    twice = table[id_column][table[id_column].duplicated()]
    if len(twice):
        raise CatalogError(
            expected("Phenotype table", path, "each subject once",
                     f"{len(twice)} repeated, the first is {twice.iloc[0]}", "Remove the copies.")
        )  # fmt: skip
    table = table.rename(columns={id_column: "subject"}).rename(columns=str.strip)
    return table.apply(lambda values: values.str.strip()).replace(dict.fromkeys(missing, ""))


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
    keys = ("subject", "session")
    names = [c for c in _FIRST if c in table] + [
        c for c in table if c not in _FIRST and c not in keys
    ]
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
    return numbers.astype(np.int64) if whole and numbers.abs().max() < 2**53 else numbers


def _start(path: Path) -> tuple[str, list[str]]:
    """Return the separator and the columns of a table."""
    try:
        with open(path, encoding="latin-1", newline="") as file:
            first = file.readline().removeprefix("\xef\xbb\xbf")  # the mark, read as Latin-1
            second = file.readline()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not first.strip() or "\0" in first:
        raise _unreadable(path, "an empty or binary file")
    separator = max("\t,;", key=first.count)
    header = next(csv.reader([first], delimiter=separator))
    fields = next(csv.reader([second], delimiter=separator), [])
    if len(fields) > len(header) and any(f.strip() for f in fields[len(header) :]):
        raise _unreadable(path, f"{len(header)} columns in the header and {len(fields)} below it")
    return separator, header


def _unreadable(path: Path, why: object) -> CatalogError:
    got = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    return CatalogError(
        expected("Phenotype table", path, "a table with a header, as text", got, "Export it again.")
    )
