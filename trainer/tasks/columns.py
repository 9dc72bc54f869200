"""Columns that tasks and confounds are taken from: of the subjects' table, or of the runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.task import did_you_mean

__all__ = [
    "RUN_PROPERTIES",
    "as_words",
    "find_column",
    "known_columns",
    "subjects_of",
    "values_of_runs",
]

#: Properties of runs that can be predicted or regressed out.
RUN_PROPERTIES = ("task", "session", "site", "dataset", "subject")
_KEYS = ("dataset", "subject", "session")


def known_columns(phenotypes: pd.DataFrame) -> list[str]:
    """Return the columns of the subjects' table, and the properties of runs."""
    own = [str(c) for c in phenotypes.columns if c not in _KEYS]
    return [*own, *(name for name in RUN_PROPERTIES if name not in own)]


def find_column(
    names: Sequence[str], phenotypes: pd.DataFrame, *, what: str, where: str, next_step: str = ""
) -> str:
    """Return the first of several columns that is there, in whatever case it is written.

    Parameters
    ----------
    names : sequence of str
    phenotypes : pd.DataFrame
    what, where : str
        Beginning of the message, such as ``Column`` and ``of task hcp-sex``.
    next_step : str
        If no name is near.

    Raises
    ------
    ConfigError
        Naming the columns that are missing, and near ones.
    """
    known = known_columns(phenotypes)
    by_small = {name.lower(): name for name in reversed(known)}
    for name in names:
        if name in known:
            return name
        if name.lower() in by_small:
            return by_small[name.lower()]
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    step = next_step or "Tokenize with phenotype tables that have it, or choose another column."
    for name in names:
        step = did_you_mean(name, known, step)
    raise ConfigError(
        expected(what, f"{' or '.join(names)} {where}", "a column of the store's subjects or runs",
                 f"none of that name among {shown}", step)
    )  # fmt: skip


def values_of_runs(column: str, runs: pd.DataFrame, phenotypes: pd.DataFrame) -> pd.Series:
    """Return a column's value for each run; missing where it is not known.

    A value of the run's own session goes before one that holds for all sessions. A value of
    another session is taken if the subject has one value only.

    Parameters
    ----------
    column : str
        From :func:`find_column`.
    runs : pd.DataFrame
        ``dataset, subject, session`` and the properties of runs.
    phenotypes : pd.DataFrame
        ``dataset, subject, session`` and columns.

    Returns
    -------
    pd.Series of length n_runs
    """
    if column not in phenotypes.columns or column in _KEYS:
        return _known(runs[column].reset_index(drop=True))
    table = pd.DataFrame(
        {
            "subject": subjects_of(phenotypes),
            "session": phenotypes["session"].fillna("").astype(str),
            "value": _known(phenotypes[column]),
        }
    ).dropna(subset="value")
    subject, session = subjects_of(runs), runs["session"].fillna("").astype(str)
    own = table.drop_duplicates(["subject", "session"]).set_index(["subject", "session"])["value"]
    pairs = [pd.MultiIndex.from_arrays([subject, s]) for s in (session, [""] * len(runs))]
    values = own.reindex(pairs[0]).reset_index(drop=True)
    of_all = own.reindex(pairs[1]).reset_index(drop=True)
    n_values = table.groupby("subject")["value"].nunique()
    only = table[table["subject"].map(n_values) == 1].drop_duplicates("subject")
    of_others = only.set_index("subject")["value"].reindex(subject).reset_index(drop=True)
    values = values.where(values.notna(), of_all)
    values = values.where(values.notna(), of_others)
    if column in runs.columns:  # such as the site
        values = values.where(values.notna(), _known(runs[column].reset_index(drop=True)))
    return values


def as_words(values: pd.Series) -> npt.NDArray[np.str_]:
    """Return values as text; whole numbers without a decimal point."""
    if pd.api.types.is_bool_dtype(values):
        return values.astype(str).to_numpy(str)
    if pd.api.types.is_numeric_dtype(values):
        return np.array([f"{value:.15g}" for value in values.astype(float)], dtype=str)
    return values.astype(str).str.strip().to_numpy(str)


def _known(values: pd.Series) -> pd.Series:
    """Make empty text missing."""
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return values
    return values.astype(object).where(values.notna() & (values.astype(str).str.strip() != ""))


def subjects_of(table: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Name the subject of each row, with its dataset."""
    return (table["dataset"].astype(str) + "/" + table["subject"].astype(str)).to_numpy(str)
