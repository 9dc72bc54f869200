"""What baselines are made of, read from a store: parcel series and mean tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.baselines.connectivity import MIN_FRAMES
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.units import Units

__all__ = ["mean_tokens", "parcel_series", "too_short"]

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
