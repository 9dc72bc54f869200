"""Read tables of subjects as text, whatever their separator and encoding."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pandas as pd

from fmritok.pipeline.errors import CatalogError, expected

__all__ = ["MISSING", "find_column", "read_header_line", "read_text_table"]

#: What stands for a missing value in any cohort's tables, besides its own codes.
MISSING = frozenset({"", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "#N/A"})
_ROWS_AT_ONCE = 50_000


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
    separator, header, trailing = _start(path)
    id_column = find_column(header, ids)
    if id_column is None:
        raise CatalogError(
            expected("Phenotype table", path, f"a column {' or '.join(map(repr, ids))}",
                     ", ".join(map(repr, header[:5])) + ", ...", "Check the file.")
        )  # fmt: skip
    wanted = None if columns is None else [c for c in header if c in columns or c == id_column]
    # fields without a name are read under one, so that none is lost unseen if it is not empty
    nameless = [f"nameless {i}" for i in range(trailing)] if wanted is None else []
    names = [*header, *nameless] if nameless else None
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            parts = []
            for part in pd.read_csv(
                path, sep=separator, dtype=str, na_filter=False, encoding=encoding,
                usecols=wanted, index_col=False, chunksize=_ROWS_AT_ONCE, names=names, header=0,
            ):  # fmt: skip
                if (part[nameless] != "").any(axis=None):
                    raise ValueError(f"rows with more than the {len(header)} fields of the header")
                part = part.drop(columns=nameless)
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
    table = table.rename(
        columns={"subject": "subject_in_table", "dataset": "dataset_in_table", id_column: "subject"}
    ).rename(columns=str.strip)
    return table.apply(lambda values: values.str.strip()).replace(dict.fromkeys(missing, ""))


def _start(path: Path) -> tuple[str, list[str], int]:
    """Return the separator, the columns, and how many empty fields rows have after them."""
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
    more = fields[len(header) :]
    if any(field.strip() for field in more):
        raise _unreadable(path, f"{len(header)} columns in the header and {len(fields)} below it")
    return separator, header, len(more)


def _unreadable(path: Path, why: object) -> CatalogError:
    got = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    return CatalogError(
        expected("Phenotype table", path, "a table with a header, as text", got, "Export it again.")
    )
