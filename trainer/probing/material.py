"""What a probe works on: the encoders of trainings, and the units of tasks in their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path

import numpy as np

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.features import FrozenEncoder, load_frozen
from fmritok.trainer.probing.passes import Form, Need, needed_windows
from fmritok.trainer.record.finding import find_trained
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, units_of, without_units

__all__ = ["Source", "open_sources", "need_of", "units_in_all"]


@dataclass(frozen=True)
class Source:
    """A training with the tokens that its encoder takes.

    Attributes
    ----------
    name : str
        Of its rows.
    training : Path
    frozen : FrozenEncoder
    group : TokenGroup
    index : RunIndex
        All finished runs of the group, by their ids.
    """

    name: str
    training: Path
    frozen: FrozenEncoder
    group: TokenGroup
    index: RunIndex

    @property
    def patch(self) -> int:
        """Frames of a patch of its encoder."""
        return self.frozen.encoder.grid.layout.patch

    def untrained(self, seed: int) -> FrozenEncoder:
        """Return an untrained encoder of the same shape."""
        return load_frozen(self.training, self.group, untrained_seed=seed)


def open_sources(
    store: TokenStore, trainings: Sequence[Path], group_name: str | None
) -> list[Source]:
    """Load the encoders of trainings, each with its token group.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it was trained on other tokens.
    StoreError
        If the store lacks the token group.
    """
    checkpoints = [find_trained(training) for training in dict.fromkeys(trainings)]
    short = [f"{one.config.objective.name} {one.training.name}" for one in checkpoints]
    sources = []
    for checkpoint, name in zip(checkpoints, short, strict=True):
        group = store.group(group_name or checkpoint.group_name)
        if short.count(name) > 1:
            name = f"{checkpoint.config.objective.name} {checkpoint.folder}"
        frozen = load_frozen(checkpoint.folder, group)
        index = RunIndex.of(group.runs, sorted(group.runs["run_id"]))
        sources.append(Source(name, checkpoint.folder, frozen, group, index))
    return sources


def units_in_all(
    task: Task, sources: Sequence[Source], store: TokenStore, where: Sequence[str]
) -> list[Units]:
    """Return the units of a task that the tokens of every source have, once for each source.

    Raises
    ------
    ConfigError
        If the store cannot serve the task, or too few units are in all token groups.
    """
    by_group: dict[str, Units] = {}
    for source in sources:
        name = source.group.name
        if name not in by_group:
            patch = lcm(*(one.patch for one in sources if one.group.name == name))
            by_group[name] = units_of(task, source.group.runs, store.phenotypes, store.events,
                                      where=where, patch=patch)  # fmt: skip
    first = next(iter(by_group.values()))
    common = set(first.ids.tolist()).intersection(*(u.ids.tolist() for u in by_group.values()))
    if not common:
        raise ConfigError(
            expected("Units", f"of task {task.name}", f"some that {', '.join(by_group)} all have",
                     "none", "Probe trainings of one token group at a time.")
        )  # fmt: skip
    for name, units in by_group.items():
        leave = ~np.isin(units.ids, list(common))
        by_group[name] = without_units(units, leave, "not in every token group")
    return [by_group[source.group.name] for source in sources]


def need_of(units: Units, source: Source, form: Form, crops: int) -> Need:
    """Return the windows whose features a task needs: of all runs of its cohort, or of events.

    A row is a run or an event, of all tokens a window. Units that lack a label are among them, so
    that targets of one cohort share their features.
    """
    run = np.searchsorted(source.index.run_id, units.runs["run_id"].to_numpy(str))
    if units.events is not None:
        own = units.events.windows
        windows = Windows.of(run, own.first, own.n_frames, np.zeros_like(run))
        return Need(form, windows, np.arange(len(run)), len(run))
    windows = needed_windows(source.index, run, window=source.frozen.window, crops=crops)
    if form == "tokens":
        return Need(form, windows, np.arange(len(windows)), len(windows))
    return Need(form, windows, np.searchsorted(run, windows.run), len(run))
