"""Repetition times of runs that have no header: for all, by site, or in a table."""

from __future__ import annotations

from pathlib import Path

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.headers.sidecar import Sidecar
from fmritok.pipeline.headers.timing import TR_RANGE_S
from fmritok.pipeline.parcels.description import Description, TimeTable
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.text_table import CSV, TextTable, find_column

__all__ = ["Times"]


class Times:
    """Repetition times of the runs of a cohort.

    Parameters
    ----------
    about : Description

    Raises
    ------
    CatalogError
        If the table of repetition times is broken.
    """

    def __init__(self, about: Description) -> None:
        self._about, self._by, self._path = about, "", about.path
        self._known: dict[str, float] = {}
        if isinstance(about.tr, TimeTable):
            self._by, self._path = about.tr.by, about.tr.path
            for key, seconds in _read(about.tr).items():
                self._known[self._key(key)] = seconds
        elif about.tr is not None and not isinstance(about.tr, float):
            self._by = "site"
            self._known = {self._key(site): seconds for site, seconds in about.tr.items()}

    def of(self, path: Path, subject: str, site: str) -> tuple[Sidecar, str]:
        """Return the repetition time of a run, and why it has none although it should."""
        if isinstance(self._about.tr, float):
            return Sidecar(self._path, self._about.tr), ""
        if not self._by:
            return Sidecar(), ""
        below = path.relative_to(self._about.root).as_posix()
        names = {"site": [site], "subject": [subject], "file": [below, path.name, path.stem]}
        for name in names[self._by]:
            if self._key(name) in self._known:
                return Sidecar(self._path, self._known[self._key(name)]), ""
        what = f"{self._by} {names[self._by][0]!r} of {path}" if names[self._by][0] else (
            f"the site of {path}, which is unknown")  # fmt: skip
        return Sidecar(), expected(
            "Repetition time", f"of {what}", f"its seconds in {self._path}", "none",
            "Add it there, or give tr of all runs in seconds (--tr).",
        )  # fmt: skip

    def _key(self, name: str) -> str:
        name = name.strip()
        if self._by == "subject":
            return name.removeprefix("sub-").zfill(self._about.id_digits)
        return name.casefold() if self._by == "site" else name


def _read(table: TimeTable) -> dict[str, float]:
    try:
        read = TextTable(table.path, CSV)
        places = []
        for name in (table.key, table.seconds):
            column = find_column(read.header, [name])
            if column is None:
                raise CatalogError(
                    expected("Table of repetition times", table.path, f"a column {name!r}",
                             ", ".join(map(repr, read.header[:5])), "Correct `tr`.")
                )  # fmt: skip
            places.append(read.header.index(column))
        rows = list(read.rows(places))
    except UnreadableError as error:
        raise CatalogError(
            expected("Table of repetition times", table.path, "a table", error, "Correct `tr`.")
        ) from error
    found: dict[str, float] = {}
    for key, text in rows:
        try:
            seconds = float(text)
        except ValueError:
            seconds = float("nan")
        if not TR_RANGE_S[0] <= seconds <= TR_RANGE_S[1] or found.get(key, seconds) != seconds:
            got = f"{found[key]:g} and {text}" if key in found else text or "nothing"
            raise CatalogError(
                expected(f"Repetition time of {key!r} in", table.path,
                         f"one number of seconds, {TR_RANGE_S[0]:g} to {TR_RANGE_S[1]:g}", got,
                         "Correct the table.")
            )  # fmt: skip
        found[key] = seconds
    return found
