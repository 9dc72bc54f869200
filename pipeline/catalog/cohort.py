"""The catalogue of a cohort: its runs and annotations, and skipped files with reasons.

Each adapter in :mod:`fmritok.pipeline.datasets` turns a root folder into a :class:`Cohort`. It
reads headers, but no data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from fmritok.errors import CatalogError, expected, wrong_usage
from fmritok.pipeline.catalog.events import events_table
from fmritok.pipeline.catalog.phenotypes import Phenotypes
from fmritok.pipeline.sources.opening import FILE_COLUMNS

__all__ = ["COLUMNS", "Adapter", "Cohort", "Input", "any_text", "reasons_table"]

#: Representation of the runs to catalogue.
Input = Literal["volume", "surface"]

COLUMNS = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space", "source",
    "source_bytes", "source_time", *FILE_COLUMNS, "motion", "n_frames", "problem",
]  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """A catalogued cohort.

    Attributes
    ----------
    dataset : str
        Name of the adapter.
    runs : pd.DataFrame
        One row per run: ``run_id, dataset, subject, session, task, site, family, tr, space,
        source`` (path below the root), ``path, right, warp, mask, layout`` (text, empty if
        none), ``source_bytes, source_time`` (text: sizes in bytes and modification times, ns since
        1970, of the run's file, right hemisphere, warp and mask, in this order), ``motion`` (mm),
        ``n_frames, problem`` (why it cannot be tokenized, or empty).
    left_out : pd.DataFrame
        ``path, reason``: skipped files.
    questioned : pd.DataFrame
        ``path, reason``: used files with doubts about them.
    phenotypes : pd.DataFrame
        ``dataset, subject, session`` and typed columns. ``session`` is empty in rows for all
        sessions.
    columns : pd.DataFrame
        ``dataset, column, dtype, unit, source, meaning`` of the phenotype columns.
    events : pd.DataFrame
        ``run_id, onset, duration, trial_type``; s.
    """

    dataset: str
    runs: pd.DataFrame
    left_out: pd.DataFrame
    questioned: pd.DataFrame = field(default_factory=lambda: reasons_table([]))
    phenotypes: pd.DataFrame = field(default_factory=lambda: Phenotypes().table)
    columns: pd.DataFrame = field(default_factory=lambda: Phenotypes().columns)
    events: pd.DataFrame = field(default_factory=lambda: events_table([]))

    def named(self, name: str) -> Cohort:
        """Return the cohort under another name. Run ids then begin with this name.

        With different names, two cohorts of the same layout can share a store.
        """
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            raise wrong_usage(
                CatalogError(
                    expected(
                        "Name", "of the cohort", "letters, digits and -", name, "Choose another."
                    )
                )
            )
        old = f"{self.dataset}_"
        runs, events = self.runs.copy(), self.events.copy()
        for table in (runs, events):
            table["run_id"] = [f"{name}_{run_id.removeprefix(old)}" for run_id in table["run_id"]]
        others = (t.assign(dataset=name) for t in (runs, self.phenotypes, self.columns))
        runs, phenotypes, columns = others
        return replace(self, dataset=name, runs=runs, phenotypes=phenotypes, columns=columns,
                       events=events)  # fmt: skip

    @property
    def without_phenotypes(self) -> list[str]:
        """Subjects with runs but without a row in the phenotype tables."""
        return sorted(set(self.runs["subject"]) - set(self.phenotypes["subject"]))


class Adapter(Protocol):
    """Signature of an adapter: a function that catalogues cohorts of one layout."""

    def __call__(self, root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
        """Catalogue the cohort below ``root``.

        Parameters
        ----------
        root : Path
        tr : float, optional
            Repetition time to use for every run instead of the headers', s.
        input : {"volume", "surface"}
            Representation of the runs: volumes, or CIFTI and GIFTI files.
        """


def reasons_table(items: Iterable[tuple[Path, str]]) -> pd.DataFrame:
    """Return files and reasons as a table."""
    rows = [(str(path), why) for path, why in items]
    with any_text():
        return pd.DataFrame(rows, columns=["path", "reason"], dtype=str)


def any_text() -> AbstractContextManager[None]:
    """Let new tables hold file names that are no valid Unicode, which pyarrow refuses."""
    return pd.option_context("mode.string_storage", "python")
