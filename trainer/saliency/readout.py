"""A number that is read off an encoder: of a linear head, or the norm of the embedding."""

# X = 2 * W: the mean over all tokens, and CLS

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.reading import Batch, WindowReader
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.features import spread_windows
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.pooling import pooled
from fmritok.trainer.tasks.units import Units

__all__ = ["Head", "Number", "Readout", "batches_of", "fit_head", "run_means"]

_BATCH = 8
_STRENGTHS = np.logspace(-2, 6, 17)


class Head(NamedTuple):
    """A linear head.

    Attributes
    ----------
    name : str
        What it predicts.
    weight : np.ndarray of shape (2 * width,), float64
    """

    name: str
    weight: npt.NDArray[np.float64]


class Number(nn.Module):
    """A number that an encoder gives for each window.

    Parameters
    ----------
    encoder : TokenTransformer
    """

    def __init__(self, encoder: TokenTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, x_BUCF: Tensor, static_BSD: Tensor | None, times_BU: Tensor, valid_BU: Tensor | None
    ) -> Tensor:
        """Return the number of each window [B]."""
        raise NotImplementedError


class Readout(Number):
    """Pooled features of windows, and one number from them.

    Parameters
    ----------
    encoder : TokenTransformer
    head : Head, optional
        Without one, the number is half of the squared norm of the features.
    """

    weight: Tensor | None

    def __init__(self, encoder: TokenTransformer, head: Head | None = None) -> None:
        super().__init__(encoder)
        weight = None if head is None else torch.from_numpy(head.weight).float()
        self.register_buffer("weight", weight, persistent=False)

    def features(
        self, x_BUCF: Tensor, static_BSD: Tensor | None, times_BU: Tensor, valid_BU: Tensor | None
    ) -> Tensor:
        """Return the mean token and CLS of each window [B X]."""
        found = self.encoder(self.encoder.embed(x_BUCF), static_BSD, times_BU, valid_BU)
        return pooled(found, valid_BU, "both")

    def forward(
        self, x_BUCF: Tensor, static_BSD: Tensor | None, times_BU: Tensor, valid_BU: Tensor | None
    ) -> Tensor:
        """Return the number of each window [B]."""
        features_BX = self.features(x_BUCF, static_BSD, times_BU, valid_BU)
        if self.weight is None:
            return features_BX.square().sum(1) / 2
        return features_BX @ self.weight


def batches_of(
    group: TokenGroup, run_ids: list[str], *, window: int, crops: int
) -> tuple[Iterator[Batch], int]:
    """Read evenly spread windows of runs; return batches, and how many there are.

    ``batch.runs`` are positions in ``run_ids``.
    """
    index = RunIndex.of(group.runs, run_ids)
    spread = [
        (run, *place)
        for run, n_frames in enumerate(index.n_frames.tolist())
        for place in spread_windows(n_frames, window=window, crops=crops)
    ]
    run, first, length = np.array(spread, dtype=np.int64).reshape(-1, 3).T
    windows = Windows.of(run, first, length, np.zeros_like(run))
    requests = list(windows.batches(_BATCH))
    return iter(WindowReader(group, index).loader(requests, workers=0)), len(requests)


def run_means(
    readout: Readout, batches: Iterator[Batch], n_runs: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Return the mean over the windows of each run of the features (n_runs, 2 * width)."""
    sums: npt.NDArray[np.float64] | None = None
    counts = np.zeros(n_runs)
    for batch in batches:
        with torch.no_grad():
            inputs = readout.encoder.inputs(batch.to(device))
            found = readout.features(inputs.patches, inputs.static, inputs.times, inputs.valid)
        features, run = found.double().cpu().numpy(), batch.runs.cpu().numpy()
        sums = np.zeros((n_runs, features.shape[1])) if sums is None else sums
        np.add.at(sums, run, features)
        np.add.at(counts, run, 1)
    assert sums is not None
    return np.asarray(sums / np.maximum(counts, 1)[:, None])


def fit_head(
    units: Units, of_run: npt.NDArray[np.float64], of_class: str | None = None
) -> Head:  # fmt: skip
    """Fit a linear head by ridge regression on all units of a task.

    Parameters
    ----------
    units : Units
    of_run : np.ndarray of shape (n_rows, n_features)
        Features of the rows of the units' runs that have a label, in their order.
    of_class : str, optional
        Which class against the others. Default: the last one.

    Raises
    ------
    ConfigError
        If the task is one of retrieval or of windows, or has no such class.
    """
    from sklearn.linear_model import RidgeCV

    task = units.task
    if task.kind == "retrieval" or units.events is not None:
        raise ConfigError(
            expected("Task", f"{task.name} for saliency", "classes or numbers of subjects or runs",
                     f"{task.kind} of {task.unit}s", "Choose another task.")
        )  # fmt: skip
    if task.kind == "regression":
        name, target = task.target[0], units.labels.values.astype(np.float64)
    else:
        of_class = of_class or units.classes[-1]
        if of_class not in units.classes:
            raise ConfigError(
                expected("Option", "--class", f"one of {', '.join(units.classes)}", of_class,
                         "Choose one of them.")
            )  # fmt: skip
        name, target = f"{task.target[0]}: {of_class}", (units.labels.values == of_class) * 2.0 - 1
    of_row = units.labels.of_row[units.labels.of_row >= 0]
    sums = np.zeros((len(units), of_run.shape[1]))
    np.add.at(sums, of_row, of_run)
    features = sums / np.bincount(of_row, minlength=len(units))[:, None]
    sd = np.maximum(features.std(0), 1e-9)
    model = RidgeCV(_STRENGTHS).fit((features - features.mean(0)) / sd, target)
    return Head(name, np.asarray(model.coef_ / sd, np.float64))
