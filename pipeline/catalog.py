"""The catalogue: what a cohort on disk holds, and what of it is left out and why.

Each adapter in :mod:`fmritok.pipeline.datasets` turns a root folder into a :class:`Cohort`; headers
are read, data are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from fmritok.pipeline.errors import CatalogError, RunError, expected
from fmritok.pipeline.headers import header_problem, read_header

__all__ = ["Adapter", "Cohort", "RunFile", "build_cohort", "checked_root", "read_phenotype_table"]

COLUMNS = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space", "source",
    "path", "n_frames", "problem",
]  # fmt: skip


@dataclass(frozen=True)
class RunFile:
    """One run as an adapter found it, before its header was read.

    Attributes
    ----------
    run_id : str
        Unique in the cohort, made of letters, digits, ``_`` and ``-``.
    subject, session, task, site, family : str
        Ids as text, as the cohort writes them; empty where there is none.
    space : str
        Template space of the volumes.
    path : Path
    tr : float
        Repetition time where the cohort knows it better than the header, s; else NaN.
    """

    run_id: str
    subject: str
    path: Path
    session: str = ""
    task: str = ""
    site: str = ""
    family: str = ""
    space: str = "MNI152NLin6Asym"
    tr: float = float("nan")


@dataclass(frozen=True)
class Cohort:
    """A catalogued cohort.

    Attributes
    ----------
    dataset : str
        The adapter's name.
    runs : pd.DataFrame
        One row per run: ``run_id, dataset, subject, session, task, site, family, tr, space,
        source`` (path below the root), ``path, n_frames, problem`` (why it cannot be tokenized, or
        empty).
    left_out : pd.DataFrame
        ``path, reason``: files that were passed over on purpose.
    phenotypes : pd.DataFrame
        ``dataset, subject`` and typed columns, one row per subject.
    """

    dataset: str
    runs: pd.DataFrame
    left_out: pd.DataFrame
    phenotypes: pd.DataFrame = field(default_factory=pd.DataFrame)


class Adapter(Protocol):
    """What a cohort needs to be catalogued: one function, one object per cohort layout."""

    def __call__(self, root: Path, *, tr: float | None = None) -> Cohort:
        """Catalogue the cohort below ``root``.

        Parameters
        ----------
        root : Path
        tr : float, optional
            Repetition time to use for every run instead of the headers', s.
        """


def checked_root(root: Path) -> Path:
    """Return the root of a cohort if it is a folder.

    Raises
    ------
    CatalogError
        If it is not.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise CatalogError(
            expected("Data root", root, "a folder", "a file" if root.exists() else "nothing there",
                     "Check --root (or DATA_ROOT).")
        )  # fmt: skip
    return root


def build_cohort(
    dataset: str,
    root: Path,
    files: Iterable[RunFile],
    left_out: Iterable[tuple[Path, str]],
    phenotypes: pd.DataFrame,
    *,
    tr: float | None = None,
    looked_for: str,
) -> Cohort:
    """Read the headers of the runs that an adapter found, and check the catalogue.

    Parameters
    ----------
    dataset, root, phenotypes
        As in :class:`Cohort`.
    files : iterable of RunFile
    left_out : iterable of (Path, str)
        Files that were passed over, and why.
    tr : float, optional
        Repetition time for every run, s.
    looked_for : str
        The file names that were searched, for the error about an empty root.

    Raises
    ------
    CatalogError
        If there is no run at all.
    """
    by_id: dict[str, list[RunFile]] = {}
    for file in files:
        by_id.setdefault(file.run_id, []).append(file)
    if not by_id:
        raise CatalogError(
            expected(f"Cohort {dataset} below", root, looked_for, "no such file",
                     "Check --dataset and --root.")
        )  # fmt: skip
    first = [found[0] for found in by_id.values()]
    with ThreadPoolExecutor(16) as pool:
        headers = list(pool.map(lambda file: _read(file, tr), first))
    rows = []
    for file, (n_frames, seconds, problem) in zip(first, headers, strict=True):
        twins = by_id[file.run_id]
        if len(twins) > 1:
            problem = expected("Run id", file.run_id, "one file",
                               " and ".join(str(t.path.relative_to(root)) for t in twins),
                               "Move all but one away.")  # fmt: skip
        row = asdict(file) | {
            "dataset": dataset,
            "tr": seconds,
            "source": file.path.relative_to(root).as_posix(),
            "n_frames": n_frames,
            "problem": problem,
        }
        rows.append(row)
    runs = pd.DataFrame(rows)[COLUMNS].sort_values("run_id", ignore_index=True)
    table = pd.DataFrame([(str(p), reason) for p, reason in left_out], columns=["path", "reason"])
    if len(phenotypes):
        phenotypes = phenotypes.copy()
        phenotypes.insert(0, "dataset", dataset)
    return Cohort(dataset, runs, table, phenotypes)


def read_phenotype_table(path: Path, id_column: str) -> pd.DataFrame:
    """Read a CSV of subjects; ids stay text, other columns become numbers where all are.

    Returns
    -------
    pd.DataFrame
        With the ids in a column ``subject``.

    Raises
    ------
    CatalogError
        If the table has no such column, or a subject twice.
    """
    try:
        table = pd.read_csv(path, dtype={id_column: str}, low_memory=False)
    except (ValueError, OSError) as error:
        raise CatalogError(
            expected("Phenotype table", path, "a CSV file", f"{type(error).__name__}: {error}",
                     "Export it again.")
        ) from error  # fmt: skip
    if id_column not in table:
        raise CatalogError(
            expected("Phenotype table", path, f"a column {id_column!r}",
                     ", ".join(map(repr, table.columns[:5])) + ", ...", "Check the file.")
        )  # fmt: skip
    twice = table[id_column][table[id_column].duplicated()]
    if len(twice):
        raise CatalogError(
            expected("Phenotype table", path, "each subject once",
                     f"{len(twice)} repeated, the first is {twice.iloc[0]}", "Remove the copies.")
        )  # fmt: skip
    return table.rename(columns={id_column: "subject"})


def _read(file: RunFile, tr: float | None) -> tuple[int, float, str]:
    """Return frames, repetition time and problem of one run."""
    try:
        header = read_header(file.path)
    except RunError as error:
        return 0, float("nan"), str(error)
    seconds = header.tr if np.isnan(file.tr) else file.tr
    seconds = seconds if tr is None else tr
    problem = header_problem(header, seconds)
    return header.n_frames, seconds, problem.replace("in the header", f"in {file.path}")
