"""Map-style dataset of the windows of a token group, for any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.quantities import counted
from fmritok.trainer.data.drawing import all_windows, random_windows
from fmritok.trainer.data.labels import Labels, labels_of, runs_where
from fmritok.trainer.data.samples import Form, SampleReader
from fmritok.trainer.data.split import split_runs
from fmritok.trainer.data.windows import Request, RunIndex, Windows
from fmritok.trainer.errors import ConfigError

__all__ = ["WindowDataset"]

Side = Literal["train", "validation"]
_OURS = ("tokens", "mean", "std", "scale", "times", "valid", "run")


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Windows of a token group; ``len``, and ``[i]`` gives a dict of tensors.

    A window has

    - ``tokens`` (window, n_tokens, dim), in the chosen form;
    - ``times`` (window,), float32, seconds since its first frame;
    - ``valid`` (window,), False in padded frames, where tokens and times are 0;
    - ``run``, its row in :attr:`runs`, int64;
    - each label by its name: an int64 class, see :attr:`classes`, or a float32 number.

    Parameters
    ----------
    group : TokenGroup
    window : int
        Frames. A run that is shorter gives one window, padded at the end.
    labels : sequence of str
        Columns of the phenotypes or of the runs (``task``, ``session``, ``site``, ``dataset``).
        Runs with a missing label are excluded, see :attr:`left_out`.
    split : {"train", "validation"}, optional
        One side of the split of ``fmritok train``, by subject and family. Default: all runs.
    validation_fraction : float
        Share of the subjects in the validation split.
    split_seed : int
        Seed of the split.
    where : sequence of str
        Conditions on runs, such as ``task=rest``; one column's values are alternatives.
    stride : int, optional
        Frames between the starts of windows. Default: ``window``, no overlap.
    windows_per_run : int, optional
        Random windows per run, drawn anew in each epoch. Default: all complete windows of a run,
        from its first frame on.
    seed : int
        Seed of random windows.
    form : {"residual", "absolute", "stored"}
        Form of ``tokens``. ``residual``: deviations from the run's mean in units of its standard
        deviation, float32. ``absolute``: the values, float32. ``stored``: the store dtype, with
        ``mean``, ``std`` and ``scale`` (n_tokens, dim) of the run; a quarter to a half of the
        bytes.

    Attributes
    ----------
    runs : pd.DataFrame
        The runs of the windows.
    classes : dict of str to list of str
        The classes of each categorical label.
    left_out : dict of str to list of str
        Ids of excluded runs, by missing label.

    Raises
    ------
    ConfigError
        If a label does not exist or has one value only, a condition fits no run, or no run is left.
    """

    def __init__(
        self,
        group: TokenGroup,
        *,
        window: int,
        labels: Sequence[str] = (),
        split: Side | None = None,
        validation_fraction: float = 0.2,
        split_seed: int = 0,
        where: Sequence[str] = (),
        stride: int | None = None,
        windows_per_run: int | None = None,
        seed: int = 0,
        form: Form = "residual",
    ) -> None:
        if not isinstance(group, TokenGroup):
            raise TypeError(f"group is a token group, such as store[NAME], not {group!r}")
        _check(window=window, stride=stride, windows_per_run=windows_per_run)
        if stride is not None and windows_per_run is not None:
            raise ConfigError(
                expected("Option", "stride of the windows", "none with windows_per_run, which "
                         "draws their starts", stride, "Leave one of them out.")
            )  # fmt: skip
        if split is not None and not 0 < validation_fraction < 1:
            raise ConfigError(
                expected("Option", "validation_fraction of the windows", "a share between 0 and 1",
                         validation_fraction, "Change it.")
            )  # fmt: skip
        _check_choice("form", form, get_args(Form))
        if split is not None:
            _check_choice("split", split, get_args(Side))
        labels = [labels] if isinstance(labels, str) else labels
        where = [where] if isinstance(where, str) else where
        self.group, self.window, self.stride = group, window, stride
        self.windows_per_run, self.seed, self.form = windows_per_run, seed, form
        runs = runs_where(group.runs, where).sort_values("run_id", ignore_index=True)
        found = _labels(group, runs, labels)
        kept = np.ones(len(runs), bool)
        self.left_out: dict[str, list[str]] = {}
        for name, label in found.items():
            unknown = label.of_row < 0
            self.left_out[name] = runs["run_id"][unknown].tolist()
            kept &= ~unknown
        if split is not None:
            sides = split_runs(group.runs, fraction=validation_fraction, seed=split_seed)
            kept &= runs["run_id"].isin(getattr(sides, split)).to_numpy()
        if not kept.any():
            raise ConfigError(
                expected("Windows", f"of group {group.name}", "at least one run",
                         f"none of {len(runs)}" + (f" in split {split}" if split else ""),
                         "Change labels, where or split.")
            )  # fmt: skip
        self.runs: pd.DataFrame = runs[kept].reset_index(drop=True)
        self.classes: dict[str, list[str]] = {}
        self._targets: dict[str, npt.NDArray[Any]] = {}
        for name, label in found.items():
            self._targets[name] = self._target(name, label)[kept]
        self.index = RunIndex.of(self.runs, self.runs["run_id"].tolist())
        #: Reads the windows, also in loader workers.
        self.reader = SampleReader(
            group, self.index, window=window, form=form, targets=self._targets
        )
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the random windows of an epoch; without ``windows_per_run`` they never change."""
        self.epoch = epoch
        self._requests = self.requests(epoch)

    def requests(self, epoch: int) -> list[Request]:
        """Return the read request of each window of an epoch."""
        windows = self.windows(epoch)
        return next(iter(windows.batches(max(1, len(windows)))))

    def windows(self, epoch: int) -> Windows:
        """Return the windows of an epoch in order."""
        if self.windows_per_run is None:
            return all_windows(self.index, window=self.window, stride=self.stride)
        return random_windows(
            self.index, window=self.window, windows_per_run=self.windows_per_run,
            seed=self.seed, epoch=epoch,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Read several windows at once, as torch's loaders ask for them."""
        for i in indices:
            if not -len(self) <= i < len(self):
                raise IndexError(f"window {i} of {len(self)}")
        batch = self.reader.__getitems__([self._requests[i] for i in indices])
        return [{name: values[i] for name, values in batch.items()} for i in range(len(indices))]

    def __repr__(self) -> str:
        windows = counted(len(self), "random window" if self.windows_per_run else "window")
        labels = f", labels {', '.join(self._targets)}" if self._targets else ""
        return (
            f"WindowDataset({self.group.name}: {windows} of {counted(self.window, 'frame')} of "
            f"{counted(len(self.runs), 'run')}{labels})"
        )

    def _target(self, name: str, label: Labels) -> npt.NDArray[Any]:
        """Return one label per run: class numbers or numbers. Excluded runs get any value."""
        of_row = np.maximum(label.of_row, 0)
        if label.kind == "number":
            return label.values[of_row].astype(np.float32)
        names, codes = np.unique(label.values, return_inverse=True)
        self.classes[name] = names.tolist()
        return codes[of_row].astype(np.int64)


def _labels(group: TokenGroup, runs: pd.DataFrame, names: Sequence[str]) -> dict[str, Labels]:
    for name in names:
        if name in _OURS:
            raise ConfigError(
                expected("Label", name, f"a name that is none of {', '.join(_OURS)}", name,
                         "Take another column.")
            )  # fmt: skip
    if not names:
        return {}
    phenotypes = TokenStore(group.location.url).phenotypes
    return {name: labels_of(name, runs, phenotypes) for name in names}


def _check(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is None:
            continue
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or value < 1:
            raise ConfigError(
                expected("Option", f"{name} of the windows",
                         "1 or more" if is_whole else "a whole number", value, "Change it.")
            )  # fmt: skip


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            expected("Option", f"{name} of the windows", f"one of {', '.join(choices)}",
                     repr(value), "Choose one of them.")
        )  # fmt: skip
