"""Tables of numbers as text: ``.1D``, ``.tsv``, ``.csv``, ``.txt``, plain or gzip."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.parcels.layout import Matrix
from fmritok.pipeline.sources.files import HashedFile, check_room, damage_named, open_binary
from fmritok.pipeline.tables.small_files import UnreadableError, decode_text
from fmritok.quantities import counted
from fmritok.tokenizers.network.columns import is_count

__all__ = ["SUFFIXES", "read_text_matrix"]

SUFFIXES = (".1D", ".tsv", ".csv", ".txt", ".dat")
#: From this number on, ascending integers in a first row are labels of parcels, not values.
_SURELY_LABELS = 5
#: Texts of missing numbers.
_MISSING = ("n/a", "N/A", "NA", "nan", "NaN", "NAN", "null", "")
_SEPARATORS = "\t,;"
#: Bytes of a table in memory, for a byte of its file: lines and numbers.
_IN_MEMORY = 4


def read_text_matrix(path: Path, *, values: bool = True) -> tuple[Matrix, str]:
    """Read a table of numbers.

    Names of columns may stand in the first line, also after ``#``. Other lines that begin with
    ``#`` are comments. Columns of text at the left edge may name the rows.

    Parameters
    ----------
    path : Path
    values : bool
        Whether to read the numbers, or the shape and names only.

    Returns
    -------
    Matrix
    sha256 : str
        Of the stored bytes.

    Raises
    ------
    RunError
        If the file is damaged, empty, ragged or no table of numbers.
    """
    with damage_named(path, "a table of numbers"), open_binary(path) as raw:
        file = HashedFile(raw, path)
        parts: list[bytes] = []
        size = 0
        while part := file.read(1 << 24):
            parts.append(part)
            size += len(part)
            check_room(path, _IN_MEMORY * size, "numbers")
        file.finish()
    try:
        text = decode_text(b"".join(parts))
    except UnreadableError as error:
        raise _refusal(path, "a table of numbers", str(error), "Copy the file again.") from error
    return _matrix(text, path, values), file.sha256


def _matrix(text: str, path: Path, values: bool) -> Matrix:
    lines = [line for line in text.splitlines() if line.strip()]
    comments = [line for line in lines if line.lstrip().startswith("#")]
    rows = [line for line in lines if not line.lstrip().startswith("#")] if comments else lines
    if not rows:
        raise _refusal(path, "a table of numbers", "no row", "Copy the file again.")
    separator = _separator(rows[-1])
    header: list[str] = []
    first = _split(rows[0], separator)
    if not all(map(_is_number, first[len(first) // 2 :])) or _are_labels(first):
        header, rows = first, rows[1:]
    if separator == "\t" and rows and rows[0].endswith("\t"):  # as AFNI ends its lines
        rows = [line.removesuffix("\t") for line in rows]
    width = len(_split(rows[0], separator)) if rows else len(header)
    for line in comments if not header else ():
        fields = _split(line.strip(), separator)
        if not fields[-1].startswith("#"):  # one mark for the line, not one for each name
            fields = _split(line.lstrip().lstrip("#").strip(), separator)
        header = fields if len(fields) == width else header
    if header and len(header) == width - 1 and _has_row_names(rows, separator):
        header = ["", *header]  # R leaves out the name of the rows
    if header and len(header) != width:
        raise _refusal(path, f"{len(header)} numbers in a row, as its header has names",
                       width, "Write the table again.")  # fmt: skip
    odd = next((i for i, line in enumerate(rows) if _n_fields(line, separator) != width), None)
    if odd is not None:
        got = f"{_n_fields(rows[odd], separator)} in row {odd + 1} of {len(rows)}"
        raise _refusal(path, f"{counted(width, 'column')} in each row", got,
                       "Copy the file again: it may be cut off.")  # fmt: skip
    text_columns = _text_columns(_split(rows[0], separator)) if rows else 0
    names: tuple[str, ...] = ()
    if text_columns:
        names = tuple(_split(line, separator)[0] for line in rows)
    numbers = _numbers(rows, separator, width, text_columns, path) if values else None
    return Matrix(len(rows), width, tuple(header), names, text_columns, numbers)


def _numbers(
    rows: list[str], separator: str, width: int, text_columns: int, path: Path
) -> npt.NDArray[np.float64]:
    """Parse the numbers of the rows, without the columns of text."""
    import pandas as pd

    try:
        table = pd.read_csv(
            io.StringIO("\n".join(rows)), sep=separator or r"\s+", header=None, engine="c",
            usecols=range(text_columns, width), keep_default_na=False, na_values=list(_MISSING),
            skip_blank_lines=False, skipinitialspace=True, names=range(width),
        )  # fmt: skip
    except (ValueError, OverflowError) as error:  # ParserError is a ValueError
        raise _refusal(path, "a table of numbers", str(error).strip(), "Write it again.") from error
    odd = [i for i in range(table.shape[1]) if table.iloc[:, i].dtype.kind not in "iuf"]
    if odd:
        column = table.iloc[:, odd[0]].astype(str)
        row = int(np.argmax(pd.to_numeric(column, errors="coerce").isna().to_numpy()))
        raise _refusal(
            path, "numbers",
            f"{column.iloc[row]!r} in row {row + 1}, column {odd[0] + text_columns + 1}",
            "Correct it, or leave the run out.",
        )  # fmt: skip
    return np.ascontiguousarray(table.to_numpy(np.float64))


def _separator(line: str) -> str:
    """Return the character between the fields of a line; empty for spaces."""
    best = max(_SEPARATORS, key=line.count)
    return best if best in line else ""


def _split(line: str, separator: str) -> list[str]:
    line = line.strip("\r\n ") if separator == "\t" else line.strip()
    fields = line.split(separator) if separator else line.split()
    return [field.strip().strip('"') for field in fields]


def _n_fields(line: str, separator: str) -> int:
    return line.count(separator) + 1 if separator else len(line.split())


def _are_labels(fields: list[str]) -> bool:
    """Whether a first row of numbers holds labels of parcels: ascending integers, no frame."""
    numbers = fields[not fields[0] :]  # an index has no name
    if not all(field.isdecimal() for field in numbers):
        return False
    labels = [int(field) for field in numbers]
    ascending = all(a < b for a, b in pairwise(labels))
    return is_count(numbers) and len(numbers) > 2 or ascending and len(numbers) >= _SURELY_LABELS


def _has_row_names(rows: list[str], separator: str) -> bool:
    """Whether the first column is text, or counts the rows."""
    first = [_split(line, separator)[0] for line in rows]
    return not _is_number(first[0]) or is_count(first)


def _is_number(field: str) -> bool:
    if field in _MISSING:
        return True
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf", field) is not None


def _text_columns(fields: list[str]) -> int:
    """Return the number of fields of text at the left edge."""
    return next((i for i, field in enumerate(fields) if _is_number(field)), len(fields))


def _refusal(path: Path, wanted: str, got: object, next_step: str) -> RunError:
    return RunError(expected("Run file", path, wanted, got, next_step))
