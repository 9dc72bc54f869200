"""Read rows of text tables: BIDS tables (tabs, no quoting) and CSV tables with quotes.

All tables of a cohort are read here. Dropped rows are always reported.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import TABLE_BYTES, UnreadableError, text_lines
from fmritok.quantities import counted

__all__ = ["BIDS", "CSV", "Dialect", "MisalignedError", "TextTable", "find_column"]

#: Largest field, characters: a quoted field may be as long as a small file.
csv.field_size_limit(TABLE_BYTES)


@dataclass(frozen=True)
class Dialect:
    """Conventions of a table format.

    Attributes
    ----------
    separators : str
        Characters that may separate fields.
    quoted : bool
        Whether fields may be quoted.
    missing : frozenset of str
        Texts for missing values.
    """

    separators: str
    quoted: bool
    missing: frozenset[str]


BIDS = Dialect("\t", False, frozenset({"", "n/a"}))
CSV = Dialect("\t,;", True, frozenset({"", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null",
                                       "#N/A"}))  # fmt: skip


class MisalignedError(UnreadableError):
    """The rows of a table do not fit its header."""


def find_column(header: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of the wanted columns in a table, ignoring case."""
    present: dict[str, str] = {}
    for column in header:
        if column in names:
            present[column.lower()] = column
        present.setdefault(column.strip().lower(), column)
    return next((present[name.lower()] for name in names if name.lower() in present), None)


class TextTable:
    """A table of text, read row by row.

    Parameters
    ----------
    path : Path
    dialect : Dialect
    limit : int, optional
        Largest size, bytes; None for streamed tables of any size.

    Attributes
    ----------
    header : list of str
        Names of the columns. Columns without a name are ``Unnamed: 0`` and so on, by position.
        Empty nameless columns at the right edge are dropped.
    remarks : dict of Remark to int
        Doubts so far, each with the first line.

    Raises
    ------
    UnreadableError
        If the table cannot be read, or has no header.
    """

    def __init__(self, path: Path, dialect: Dialect, *, limit: int | None = TABLE_BYTES) -> None:
        self.remarks: dict[Remark, int] = {}
        self._lines = _Lines(text_lines(path, limit=limit))
        first = next((line for line in self._lines if self._has_fields(line)), None)
        if first is None:
            raise UnreadableError(Reason.BINARY)
        self._separator = max(dialect.separators, key=first.count)
        self._quoted = dialect.quoted
        if not self._quoted and first.startswith('"'):
            self._quoted = True  # written with all fields in quotes
        if self._separator not in first and dialect is BIDS and any(c in first for c in ",;"):
            self._separator, self._quoted = max(",;", key=first.count), True
            self._note(Remark.NOT_TABS)
        self.header = [name.strip() for name in self._parsed(first)]
        while len(self.header) > 1 and not self.header[-1]:
            self.header.pop()
        self.header = [name or f"Unnamed: {i}" for i, name in enumerate(self.header)]

    def rows(self, columns: Sequence[int] | None = None) -> Iterator[list[str]]:
        """Yield the fields of each row, stripped of spaces. Empty rows are skipped.

        Parameters
        ----------
        columns : sequence of int, optional
            Positions of the wanted columns. Default: all columns of the header.

        Raises
        ------
        MisalignedError
            If most rows have more fields than the header.
        UnreadableError
            If the file cannot be read to its end.
        """
        width, fitting, too_long, longest = len(self.header), 0, 0, 0
        columns = range(width) if columns is None else columns
        for fields in self._quoted_rows() if self._quoted else self._plain_rows():
            if fields and fields[0].startswith("#"):
                self._note(Remark.COMMENTS)
                continue
            if len(fields) != width:
                if not any(map(str.strip, fields)):
                    continue
                if any(map(str.strip, fields[width:])):
                    too_long += 1
                    longest = max(longest, len(fields))
                    self._note(Remark.LONG_ROWS)
                    continue
                if len(fields) < width:
                    self._note(Remark.SHORT_ROWS)
                    fields += [""] * (width - len(fields))
            row = [fields[place].strip() for place in columns]
            if any(row) or any(map(str.strip, fields)):
                fitting += 1
                yield row
        if too_long > fitting:
            raise MisalignedError(
                f"{counted(width, 'column')} in the header and {longest} below it"
            )

    def said(self) -> list[str]:
        """Return the remarks as text, each with its first line."""
        return [f"{remark} (line {line})" for remark, line in self.remarks.items()]

    def _has_fields(self, line: str) -> bool:
        """Whether a line is the header, not an empty line or a comment before it."""
        text = line.strip("\t,; ")
        if text.startswith("#"):
            self._note(Remark.COMMENTS)
        # the first line of a CSV file may name the separator for Excel
        return bool(text) and not text.startswith("#") and not text.lower().startswith("sep=")

    def _parsed(self, line: str) -> list[str]:
        if not self._quoted:
            return line.split(self._separator)
        return next(csv.reader([line], delimiter=self._separator, skipinitialspace=True), [])

    def _plain_rows(self) -> Iterator[list[str]]:
        for line in self._lines:
            yield line.split(self._separator)

    def _quoted_rows(self) -> Iterator[list[str]]:
        """Yield the rows of a table with quoting.

        A lone quote mark would join all lines up to the next one. If each of these lines has the
        right number of fields, they are yielded as separate rows.
        """
        lines = self._lines
        lines.keeps = True
        reader = csv.reader(
            (line + "\n" for line in lines),
            delimiter=self._separator, strict=True, skipinitialspace=True,
        )  # fmt: skip
        while True:
            lines.taken.clear()
            row: list[str] | None
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                row = None
            if row is not None and len(lines.taken) == 1:
                yield row
                continue
            taken = list(lines.taken)
            apart = [line.split(self._separator) for line in taken]
            if row is None or all(len(fields) == len(self.header) for fields in apart):
                self._note(Remark.STRAY_QUOTES)
                yield from apart
            else:
                self._note(Remark.LINE_BREAKS)
                yield row

    def _note(self, remark: Remark) -> None:
        self.remarks.setdefault(remark, self._lines.number)


class _Lines:
    """Iterator of lines that counts them, and keeps recent lines on request."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._all = iter(lines)
        self.number = 0
        self.keeps = False
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._all)
        self.number += 1
        if self.keeps:
            self.taken.append(line)
        return line
