"""The windows of a task's units: random ones to train on, fixed ones to predict from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.drawing import all_windows, draw_windows, keyed_generator
from fmritok.trainer.data.reading import Batch, WindowReader
from fmritok.trainer.data.windows import Request, RunIndex, Windows
from fmritok.trainer.evaluation.features import spread_windows
from fmritok.trainer.finetuning.config import WindowsConfig
from fmritok.trainer.tasks.units import Units

__all__ = ["UnitWindows"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class UnitWindows:
    """Windows of units, each with the number of its unit as its label.

    Attributes
    ----------
    reader : WindowReader
    index : RunIndex
        All runs of the units.
    unit : np.ndarray of shape (n_runs,), int64
        Unit of each run; without events.
    events : Windows or None
        Windows of the units themselves.
    config : WindowsConfig
        With its number of frames.
    """

    reader: WindowReader
    index: RunIndex
    unit: npt.NDArray[np.int64]
    events: Windows | None
    config: WindowsConfig

    @classmethod
    def of(cls, group: TokenGroup, units: Units, config: WindowsConfig) -> UnitWindows:
        """Find the runs and windows of units.

        Raises
        ------
        TrainingError
            If a run has no TR.
        """
        used = units.labels.of_row >= 0
        of_row, runs = units.labels.of_row[used], units.runs[used]
        names, run = np.unique(runs["run_id"].to_numpy(str), return_inverse=True)
        index = RunIndex.of(runs.drop_duplicates("run_id"), names.tolist())
        if units.events is None:
            unit = np.zeros(len(index), np.int64)
            unit[run] = of_row
            return cls(WindowReader(group, index), index, unit, None, config)
        own = units.events.windows.take(np.flatnonzero(used))
        events = replace(own, run=run.astype(np.int64), label=of_row.astype(np.int64))
        return cls(WindowReader(group, index), index, np.zeros(0, np.int64), events, config)

    def training(self, side: Mask, *, key: tuple[int, ...], epoch: int) -> Windows:
        """Return the windows of an epoch in random order, a pure function of key and epoch.

        Parameters
        ----------
        side : np.ndarray of shape (n_units,), bool
        key : tuple of int
        epoch : int
        """
        generator = keyed_generator(*key, epoch)
        if self.events is not None:
            rows = np.flatnonzero(side[self.events.label])
            return replace(self.events.take(generator.permutation(rows)), epoch=epoch)
        runs = np.flatnonzero(side[self.unit])
        drawn = draw_windows(
            self.index.take(runs), generator, epoch=epoch,
            window=self._window, windows_per_run=self.config.windows_per_run,
        )  # fmt: skip
        return self._labelled(drawn, runs)

    def fixed(self, side: Mask) -> Windows:
        """Return the windows that predictions of units are averaged over.

        Parameters
        ----------
        side : np.ndarray of shape (n_units,), bool
        """
        if self.events is not None:
            return self.events.take(np.flatnonzero(side[self.events.label]))
        runs = np.flatnonzero(side[self.unit])
        index, crops = self.index.take(runs), self.config.test_windows
        if crops is None:
            return self._labelled(all_windows(index, window=self._window), runs)
        spread = [
            (run, *place)
            for run, n_frames in enumerate(index.n_frames.tolist())
            for place in spread_windows(n_frames, window=self._window, crops=crops)
        ]
        run, first, length = np.array(spread, dtype=np.int64).reshape(-1, 3).T
        return self._labelled(Windows.of(run, first, length, np.zeros_like(run)), runs)

    def sha256(self) -> str:
        """Return the checksum of which unit each run, or each window of an event, belongs to."""
        columns = [self.unit] if self.events is None else [
            self.events.run, self.events.first, self.events.n_frames, self.events.label
        ]  # fmt: skip
        return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()

    def batches(
        self, windows: Windows, *, seen: int = 0, workers: int = 0, **options: Any
    ) -> Iterable[Batch]:
        """Read windows in batches, from sample ``seen`` on."""
        requests: list[list[Request]] = list(windows.batches(self.config.batch_size, seen))
        return self.reader.loader(requests, workers=workers, **options)

    @property
    def group(self) -> TokenGroup:
        """The token group."""
        group: TokenGroup = self.reader.groups[0]
        return group

    @property
    def _window(self) -> int:
        assert self.config.window is not None
        return self.config.window

    def _labelled(self, windows: Windows, runs: npt.NDArray[np.int64]) -> Windows:
        run = runs[windows.run]
        return replace(windows, run=run, label=self.unit[run])
