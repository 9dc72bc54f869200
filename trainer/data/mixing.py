"""Mix several stores: all their runs as one group, with a share of each epoch per store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import ProvenanceMismatchError, expected
from fmritok.pipeline.store.documents.difference import first_difference
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.quantities import counted
from fmritok.trainer.data.drawing import WindowOptions, draw_windows, keyed_generator
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import ConfigError

__all__ = ["MixedGroup", "mixed_windows"]

_MIX, _STORE = 3, 4  # keys that keep the random streams apart
_LAYOUT = (
    "codec",
    "chunk_frames",
    "shard_frames",
)  # how tokens lie on the disk, not what they mean


class MixedGroup:
    """Token groups of several stores with the same meaning, used as one group.

    Parameters
    ----------
    groups : sequence of TokenGroup
    weights : sequence of float, optional
        Share of each store in an epoch, in any unit; by default its number of runs.

    Raises
    ------
    ProvenanceMismatchError
        If the tokens of two groups differ in meaning; names the first field that differs.
    ConfigError
        If a weight is not above 0, or two stores hold a run of the same id.
    """

    def __init__(
        self, groups: Sequence[TokenGroup], weights: Sequence[float] | None = None
    ) -> None:
        self.groups = tuple(groups)
        first = self.groups[0]
        for other in self.groups[1:]:
            difference = first_difference(_meaning(first), _meaning(other))
            if difference is not None:
                name, ours, theirs = difference
                raise ProvenanceMismatchError(
                    expected(f"Token group {other.name} of", other.location,
                             f"{name} = {ours!r} (as {first.location} has it)", repr(theirs),
                             "Mix stores that were tokenized with the same options.")
                )  # fmt: skip
        if weights is not None and (len(weights) != len(groups) or min(weights) <= 0):
            raise ConfigError(
                expected("Shares of", f"{counted(len(groups), 'store')} (--mix)",
                         "one number above 0 each", list(weights), "Correct them.")
            )  # fmt: skip
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)
        tables = [group.runs.assign(store=i) for i, group in enumerate(self.groups)]
        self.runs = pd.concat(tables, ignore_index=True)
        twice = self.runs["run_id"][self.runs["run_id"].duplicated()]
        if len(twice):
            raise ConfigError(
                expected("Run", twice.iloc[0], "in one of the stores that are mixed", "in two",
                         "Omit one of the stores.")
            )  # fmt: skip

    @property
    def name(self) -> str:
        """Name of the group in the first store."""
        return self.groups[0].name

    @property
    def location(self) -> Location:
        """Where the first store is."""
        return self.groups[0].location

    @property
    def contract(self) -> dict[str, Any]:
        """What the tokens of all stores mean, and the weights."""
        weights = None if self.weights is None else list(self.weights)
        return {**_meaning(self.groups[0]), "weights": weights}

    @property
    def provenance(self) -> dict[str, Any]:
        """What the tokens were made with."""
        return self.groups[0].provenance

    @property
    def precision(self) -> str:
        """Type that the tokens are stored in."""
        return self.groups[0].precision

    @property
    def n_tokens(self) -> int:
        """Tokens of a frame."""
        return self.groups[0].n_tokens

    @property
    def dim(self) -> int:
        """Features of a token."""
        return self.groups[0].dim

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a static array."""
        return self.groups[0].array(name)


def mixed_windows(
    index: RunIndex,
    weights: Sequence[float],
    *,
    seed: int,
    epoch: int,
    **options: Unpack[WindowOptions],
) -> Windows:
    """Draw the random windows of an epoch, with a share per store.

    The number of windows is the same as without weights. All runs of a store are drawn equally
    often: windows left over in one epoch come first in the next, and a small store starts again.

    Parameters
    ----------
    index : RunIndex
        Runs of all stores.
    weights : sequence of float
        Share of each store, in any unit.
    seed, epoch, **options
        See :func:`fmritok.trainer.data.drawing.random_windows`.
    """
    windows_per_run = options["windows_per_run"]
    windows_per_read = options.get("windows_per_read", 1)
    reads = len(index) * windows_per_run // windows_per_read
    present = [store for store in range(len(weights)) if (index.store == store).any()]
    counts = _shares(reads, np.array([weights[store] for store in present], np.float64))
    parts = []
    for store, count in zip(present, counts.tolist(), strict=True):
        of_store = np.flatnonzero(index.store == store)
        runs = index.take(of_store)
        low, high = epoch * count * windows_per_read, (epoch + 1) * count * windows_per_read
        per_pass = len(runs) * windows_per_run
        for own in range(low // per_pass, -(-high // per_pass)):
            windows = draw_windows(
                runs, keyed_generator(seed, _STORE, store, own), epoch=epoch, **options
            )
            begin, end = max(low - own * per_pass, 0), min(high - own * per_pass, per_pass)
            chosen = windows.take(np.arange(begin, end))
            parts.append(replace(chosen, run=of_store[chosen.run]))
    joined = Windows.joined(parts)
    order = keyed_generator(seed, _MIX, epoch).permutation(reads)
    within = np.arange(windows_per_read)
    return joined.take((order[:, None] * windows_per_read + within).reshape(-1))


def _shares(total: int, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Divide an integer by weights, with the largest-remainder method."""
    exact = total * weights / weights.sum()
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return np.asarray(counts)


def _meaning(group: TokenGroup) -> dict[str, Any]:
    return {name: value for name, value in group.contract.items() if name not in _LAYOUT}
