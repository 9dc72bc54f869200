"""What baselines are made of, read from a store: series, mean tokens, nuisance variables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.baselines.connectivity import MIN_FRAMES
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.columns import as_words, find_column, values_of_runs
from fmritok.trainer.tasks.units import Units

__all__ = [
    "MOTION", "NUISANCE", "mean_tokens", "nuisance_table", "parcel_series", "too_short",
]  # fmt: skip

#: Columns of head motion, as cohorts name them; the first one that is there is taken.
MOTION = ("motion", "mean_fd", "mean_fd_jenkinson", "func_mean_fd", "rest_motion", "task_motion")
NUISANCE = ("age", "sex", "site", "motion")
#: Share of the units that must have a nuisance variable for it to be used unasked.
_ENOUGH = 0.9
#: Spread of mean tokens between units, in their size: less is rounding.
_ALIKE = 1e-3


def parcel_series(group: TokenGroup, units: Units) -> list[npt.NDArray[np.float32]]:
    """Return each unit's parcel series, its runs end to end, each less its mean.

    Returns
    -------
    list of np.ndarray of shape (n_frames, n_parcels), float32

    Raises
    ------
    ConfigError
        If a token is more than one number, or units are windows.
    """
    if group.dim != 1:
        raise ConfigError(
            expected("Token group", f"{group.name} for connectivity", "one number for each parcel "
                     "and frame, as the tokenizer `network` gives", f"{group.dim} features",
                     "Choose --group network, or --kind tokens.")
        )  # fmt: skip
    if units.events is not None:
        raise ConfigError(
            expected("Baseline", "connectivity", f"units of {MIN_FRAMES} frames or more",
                     f"windows of {units.task.window:g} s", "Choose --kind tokens.")
        )  # fmt: skip
    parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(len(units))]
    for run_id, unit in zip(units.runs["run_id"], units.labels.of_row, strict=True):
        if unit >= 0:
            series = group.values(run_id)[:, :, 0]
            parts[unit].append(series - series.mean(0))
    return [np.concatenate(own) for own in parts]


def too_short(units: Units) -> npt.NDArray[np.bool_]:
    """Tell which units have too few frames for connectivity."""
    frames = np.zeros(len(units), np.int64)
    used = units.labels.of_row >= 0
    np.add.at(frames, units.labels.of_row[used], units.runs["n_frames"].to_numpy()[used])
    return frames < MIN_FRAMES


def mean_tokens(group: TokenGroup, units: Units) -> npt.NDArray[np.float32]:
    """Return raw tokens averaged over time: mean and standard deviation of runs, or of windows.

    Of a window, the mean of its tokens less that of its run.

    Returns
    -------
    np.ndarray of shape (n_units, n_tokens * dim) or (n_units, 2 * n_tokens * dim), float32

    Raises
    ------
    ConfigError
        If the tokens of all runs have the same mean and standard deviation, as z-scored ones do.
    """
    of_row = units.labels.of_row
    width = group.n_tokens * group.dim * (1 if units.events is not None else 2)
    sums = np.zeros((len(units), width), np.float32)
    rows = np.flatnonzero(of_row >= 0)
    for row in rows:
        run = units.runs.iloc[row]
        statistics = group.statistics(int(run["row"]))
        if units.events is None:
            features = np.concatenate([statistics.mean.ravel(), statistics.std.ravel()])
        else:
            windows = units.events.windows
            first, length = int(windows.first[row]), int(windows.n_frames[row])
            values = group.values(run["run_id"], first, length)
            features = (values.mean(0) - statistics.mean).ravel()
        sums[of_row[row]] += features
    found = sums / np.bincount(of_row[rows], minlength=len(units))[:, None].astype(np.float32)
    size = np.sqrt(np.square(found).mean())
    if units.events is None and found.std(0).max() <= _ALIKE * size:
        raise ConfigError(
            expected("Token group", f"{group.name} for mean tokens", "runs of different mean or "
                     "standard deviation", "the same in all runs: they are z-scored in time",
                     "Choose --kind connectivity, or a group such as vae.")
        )  # fmt: skip
    return np.asarray(found, np.float32)


def nuisance_table(
    names: Sequence[str], units: Units, phenotypes: pd.DataFrame, *, asked: bool
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return variables of units: numbers averaged over the runs of a unit, and names.

    Parameters
    ----------
    names : sequence of str
        Columns; ``motion`` stands for the first of :data:`MOTION`.
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
        If a variable that was asked for is not there.
    """
    table, left_out = {}, {}
    for name in names:
        several = MOTION if name == "motion" else (name,)
        try:
            column = find_column(several, phenotypes, what="Column", where="of confounds")
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
        known = values.notna().mean()
        if known < (1e-9 if asked else _ENOUGH):
            if asked:
                raise ConfigError(
                    expected("Column", f"{column} of confounds", "a value of every unit", "none",
                             "Leave it out of --regress.")
                )  # fmt: skip
            left_out[name] = f"known of {known:.0%} of the units"
        elif values.nunique() < 2:
            left_out[name] = "the same for all units"
        else:
            table[name] = values
    return pd.DataFrame(table, index=range(len(units))), left_out


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
