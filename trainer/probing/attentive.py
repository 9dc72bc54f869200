"""Attentive probe: a query that attends to all tokens, for a grid of learning rates at once.

The protocol is that of Brainmarks: heads of 64 features, AdamW, 49 learning rates, the best one and
the best of 20 epochs by the validation side. All grid points see the same batches, so the tokens
are read once for all of them.
"""

# X = grid points, which train side by side

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fmritok.progress import report
from fmritok.trainer.evaluation.heads import Floats, Integers, Problem
from fmritok.trainer.probing.attention_grid import AttentionGrid, GridAdamW
from fmritok.trainer.tasks.validation import hold_out

__all__ = ["Attentive", "AttentiveOptions", "TokenSets", "sides"]

_VALIDATION = 0.2  # of the training side, where a fold has no validation side


@dataclass(frozen=True)
class AttentiveOptions:
    """How the heads are trained; the defaults are Brainmarks'.

    Attributes
    ----------
    learning_rates : tuple of float
        Of the grid, before the schedule.
    weight_decay : float
        Of weights; none of biases.
    epochs, steps : int
        Epochs, after each of which the validation side is scored, and steps of an epoch.
    warmup : int
        Epochs in which learning rates rise from 0; then they fall to 0 by half a cosine.
    batch_size : int
        Windows of a step.
    clip : float
        Largest norm of the gradient of a grid point.
    """

    learning_rates: tuple[float, ...] = tuple((3e-4 * np.logspace(-1.7, 1.7, 49)).tolist())
    weight_decay: float = 0.05
    epochs: int = 20
    steps: int = 200
    warmup: int = 5
    batch_size: int = 128
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Return the share of the learning rates at a step (from 0 on)."""
        total, warm = self.epochs * self.steps, min(self.warmup, self.epochs) * self.steps
        if step < warm:
            return step / max(warm - 1, 1)
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(total - warm - 1, 1))))


class TokenSets(NamedTuple):
    """Tokens of the windows of units."""

    tokens: npt.NDArray[np.float16]
    """(n_windows, patches, cells, width), mapped from disk; 0 in padding"""
    lengths: Integers
    """patches of each window (n_windows,)"""
    unit: Integers
    """unit of each window (n_windows,); -1 of none"""

    def of_units(self, units: Integers) -> Integers:
        """Return the windows of some units."""
        return np.flatnonzero(np.isin(self.unit, units))

    def read(self, windows: Integers, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B, N, W) and which are no padding (B, N), None if all are."""
        tokens = torch.from_numpy(np.asarray(self.tokens[windows])).to(device).float()
        _, patches, cells, _ = tokens.shape
        lengths = torch.from_numpy(self.lengths[windows]).to(device)
        if bool((lengths == patches).all()):
            return tokens.flatten(1, 2), None
        there = torch.arange(patches, device=device) < lengths[:, None]
        return tokens.flatten(1, 2), there.repeat_interleave(cells, dim=1)


class Attentive:
    """Head that predicts from all tokens of a unit's windows.

    Scores of a unit are the mean over its windows: of probabilities of classes, or of numbers.
    Permuted labels are not scored: each would take as long as the real ones.

    Parameters
    ----------
    options : AttentiveOptions
    device : torch.device
    n_folds : int
        How many it will be trained on, for the display of progress.
    """

    def __init__(self, options: AttentiveOptions, device: torch.device, n_folds: int = 1) -> None:
        self.options, self.device, self.n_folds = options, device, n_folds
        self._done = 0

    def __call__(self, problem: Problem, tokens: TokenSets) -> list[Floats]:
        """Train on the training side, choose by the validation side, predict the test side."""
        train, validation = sides(problem)
        labels = problem.columns[:, 0]
        seed = 1000 * problem.fold.seed + problem.fold.number
        if problem.of_classes:
            target, mean, sd = labels, 0.0, 1.0
            n_outputs = len(problem.units.classes)
        else:
            mean, sd = float(labels[train].mean()), float(labels[train].std()) or 1.0
            target, n_outputs = (labels - mean) / sd, 1
        grid = self.fit(tokens, target, train, validation, n_outputs, seed)
        scores = self._predict(grid, tokens, problem.test)[0]
        return [scores if problem.of_classes else scores * sd + mean]

    def fit(
        self,
        tokens: TokenSets,
        target: npt.NDArray[Any],
        train: Integers,
        validation: Integers,
        n_outputs: int,
        seed: int,
    ) -> AttentionGrid:
        """Return the one head that is best on the validation side.

        Parameters
        ----------
        tokens : TokenSets
        target : np.ndarray of shape (n_units,)
            Classes as integers, or standardised numbers.
        train, validation : np.ndarray of int64
            Units.
        n_outputs : int
            Classes; 1 of numbers.
        seed : int
            Of initial weights and batches.
        """
        chosen, windows = self.options, tokens.of_units(train)
        generator = np.random.default_rng([seed, 4])
        rates = torch.tensor(chosen.learning_rates, device=self.device)
        width = tokens.tokens.shape[3]
        grid = AttentionGrid(width, n_outputs, len(rates), seed=seed).to(self.device)
        optimizer = GridAdamW(grid, rates, chosen.weight_decay, chosen.clip)
        best, kept = -np.inf, grid.one(0)
        total = self.n_folds * chosen.epochs * chosen.steps
        step, batches = 0, _batches(windows, chosen.batch_size, generator)
        for epoch in range(chosen.epochs):
            for _ in range(chosen.steps):
                report(self._done, total, f"steps of the attentive head in {self.n_folds} folds")
                own = next(batches)
                x_BNW, there_BN = tokens.read(own, self.device)
                of_batch = torch.from_numpy(np.asarray(target[tokens.unit[own]])).to(self.device)
                losses_X = _losses(grid(x_BNW, there_BN), of_batch)
                optimizer.step(losses_X, chosen.rate(step))
                grid.stop(~(losses_X <= _diverged(n_outputs)))
                step, self._done = step + 1, self._done + 1
            found = self._predict(grid, tokens, validation)
            scores = np.nan_to_num(_scores(found, target[validation]), nan=-np.inf)
            if scores.max() > best:
                best, kept = float(scores.max()), grid.one(int(scores.argmax()))
                kept.chosen = {"learning_rate": float(rates[int(scores.argmax())]),
                               "epoch": epoch + 1}  # fmt: skip
        return kept

    def _predict(self, grid: AttentionGrid, tokens: TokenSets, units: Integers) -> Floats:
        """Return the scores of units (X, n_units, n_outputs), the means over their windows."""
        windows = tokens.of_units(units)
        place = np.searchsorted(units, tokens.unit[windows])
        sums = np.zeros((grid.size, len(units), grid.n_outputs))
        with torch.inference_mode():
            for low in range(0, len(windows), self.options.batch_size):
                own = slice(low, low + self.options.batch_size)
                outputs = grid(*tokens.read(windows[own], self.device))
                if grid.n_outputs > 1:
                    outputs = outputs.softmax(2)
                found = outputs.cpu().numpy().astype(float)
                for one, of_window in zip(sums, found, strict=True):
                    np.add.at(one, place[own], of_window)
        counts = np.bincount(place, minlength=len(units))
        return np.asarray(sums / counts[:, None])


def sides(problem: Problem) -> tuple[Integers, Integers]:
    """Return the units of the training side and of the validation side.

    A fold without a validation side gets a fifth of its training side.

    Raises
    ------
    ConfigError
        If there are too few families to divide.
    """
    fold = hold_out(problem.units, problem.fold, problem.group, _VALIDATION)
    return np.flatnonzero(fold.train), np.flatnonzero(fold.validation)


def _batches(windows: Integers, size: int, generator: np.random.Generator) -> Any:
    """Yield windows in random order, again and again; a rest that fills no batch is left out."""
    size = min(size, len(windows))
    while True:
        order = generator.permutation(windows)
        for low in range(0, len(order) - size + 1, size):
            yield order[low : low + size]


def _losses(outputs: Tensor, target_B: Tensor) -> Tensor:
    """Return the loss of each grid point (X,)."""
    size = len(outputs)
    if outputs.shape[2] == 1:
        return (outputs[..., 0] - target_B.float()).square().mean(1)
    losses = F.cross_entropy(outputs.flatten(0, 1), target_B.long().repeat(size), reduction="none")
    return losses.view(size, -1).mean(1)


def _diverged(n_outputs: int) -> float:
    """Return the loss above which a grid point is given up."""
    return 20.0 * float(np.log(n_outputs)) if n_outputs > 1 else 20.0


def _scores(found: Floats, target: npt.NDArray[Any]) -> Floats:
    """Return accuracy, or the squared error with a minus sign, of each grid point."""
    if found.shape[2] == 1:
        return np.asarray(-np.square(found[..., 0] - target).mean(1))
    return np.asarray((found.argmax(2) == target).mean(1))
