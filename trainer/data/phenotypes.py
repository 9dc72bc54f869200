"""Values of the subjects' table for each run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["KEYS", "as_words", "subjects_of", "values_of_runs"]

#: Columns that say whose values a row of the table has.
KEYS = ("dataset", "subject", "session")


def values_of_runs(column: str, runs: pd.DataFrame, phenotypes: pd.DataFrame) -> pd.Series:
    """Return a column's value for each run; missing where it is not known.

    A value of the run's own session goes before one that holds for all sessions. A value of
    another session is taken if the subject has one value only.

    Parameters
    ----------
    column : str
        Of the subjects' table, or of the runs.
    runs : pd.DataFrame
        ``dataset, subject, session`` and the properties of runs.
    phenotypes : pd.DataFrame
        ``dataset, subject, session`` and columns.

    Returns
    -------
    pd.Series of length n_runs
    """
    if column not in phenotypes.columns or column in KEYS:
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
