"""Nuisance variables of units: age, sex, site, motion, and what else is to be regressed out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.data.phenotypes import as_words, values_of_runs
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.columns import find_column
from fmritok.trainer.tasks.units import Units, without_units

__all__ = ["MOTION", "NUISANCE", "known_units", "nuisance_table"]

#: Columns of head motion, as cohorts name them; the first one that is there is taken.
MOTION = ("motion", "mean_fd", "mean_fd_jenkinson", "func_mean_fd", "rest_motion", "task_motion")
NUISANCE = ("age", "sex", "site", "motion")
#: Share of the units that must have a nuisance variable for it to be used unasked.
_ENOUGH = 0.9


def nuisance_table(
    names: Sequence[str], units: Units, phenotypes: pd.DataFrame, *, asked: bool
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return variables of units: numbers averaged over the runs of a unit, and names.

    Parameters
    ----------
    names : sequence of str
        Columns; ``motion`` stands for that of the runs, else for the first of :data:`MOTION`.
    units : Units
    phenotypes : pd.DataFrame
    asked : bool
        Whether the user named them: then one that is not there is an error.

    Returns
    -------
    table : pd.DataFrame of n_units rows
        With missing values where a variable is unknown, or a name differs between runs.
    left_out : dict of str to str
        Variables that are not used, and why.

    Raises
    ------
    ConfigError
        If a variable that was asked for is not there, is infinite, or the same for all units.
    """
    table, left_out = {}, {}
    for name in names:
        several = MOTION if name == "motion" else (name,)
        of_runs = name == "motion" and _has_motion(units.runs)
        try:
            column = "motion" if of_runs else find_column(
                several, phenotypes, what="Column", where="of confounds"
            )  # fmt: skip
        except ConfigError:
            if asked:
                raise
            left_out[name] = "not in the store"
            continue
        if column == units.task.target[0]:
            if asked:
                raise ConfigError(
                    expected("Option", "--regress", "confounds of the target", f"{name}, which is "
                             f"the target of task {units.task.name}", "Leave it out.")
                )  # fmt: skip
            left_out[name] = "the target"
            continue
        values = _of_units(values_of_runs(column, units.runs, phenotypes), units)
        unfit = _unfit(values, least=1e-9 if asked else _ENOUGH)
        if unfit is None:
            table[name] = values
        elif asked:
            raise ConfigError(
                expected("Column", f"{column} of confounds", unfit[0], unfit[1],
                         "Leave it out of --regress.")
            )  # fmt: skip
        else:
            left_out[name] = unfit[1]
    return pd.DataFrame(table, index=range(len(units))), left_out


def _has_motion(runs: pd.DataFrame) -> bool:
    """Whether the head motion of any run is known from its own files, as confounds of fMRIPrep."""
    return "motion" in runs and bool(runs["motion"].notna().any())


def _unfit(values: pd.Series, *, least: float) -> tuple[str, str] | None:
    """Return what is expected of a variable and what it is instead; None if it can be used."""
    known = values.notna().mean()
    if known < least:
        return "a value of every unit", f"known of {known:.0%} of the units"
    if values.isin([np.inf, -np.inf]).any():
        return "finite numbers", "infinity"
    if values.nunique() < 2:
        return "different values", "the same for all units"
    return None


def known_units(units: Units, table: pd.DataFrame, reason: str) -> tuple[Units, pd.DataFrame]:
    """Leave out the units that lack a variable."""
    lacking = table.isna().any(axis=1).to_numpy()
    return without_units(units, lacking, reason), table[~lacking].reset_index(drop=True)


def _of_units(values: pd.Series, units: Units) -> pd.Series:
    used = units.labels.of_row >= 0
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not numeric:
        values = pd.Series(as_words(values), dtype=object).where(values.notna())
    grouped = values[used].groupby(units.labels.of_row[used])
    if numeric:
        return grouped.mean().reindex(range(len(units)))
    first = grouped.first()
    return first.where(grouped.nunique() == 1).reindex(range(len(units)))
