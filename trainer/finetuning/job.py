"""One fold of one row: what it is trained on, its random numbers, its model, its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fmritok.trainer.evaluation.crossval import FoldPrediction, metrics_of
from fmritok.trainer.evaluation.statistics.exchange import exchanges
from fmritok.trainer.finetuning.config import FinetuneConfig
from fmritok.trainer.finetuning.model import Classifier
from fmritok.trainer.finetuning.start import Start, torch_seed
from fmritok.trainer.finetuning.targets import Targets
from fmritok.trainer.finetuning.weights import choose_trained
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.units import Units

__all__ = ["STEP", "WINDOWS", "FoldJob", "build_classifier", "exchanged", "prediction_of"]

#: Keys that keep the random streams of a fold apart.
ENCODER, HEAD, WINDOWS, STEP = range(4)


@dataclass(frozen=True)
class FoldJob:
    """One fold of one row.

    Attributes
    ----------
    name : str
        Of its files.
    key : str
        Checksum of all that decides its result.
    units : Units
    fold : Fold
        With a validation side.
    config : FinetuneConfig
    start : Start
    pretrained : bool
    labels : np.ndarray of shape (n_units,), optional
        What is trained on instead of the units' labels.
    """

    name: str
    key: str
    units: Units
    fold: Fold
    config: FinetuneConfig
    start: Start
    pretrained: bool
    labels: npt.NDArray[Any] | None = None

    def seed(self, *key: int) -> int:
        """Return a seed of this fold; rows of the same fold have the same."""
        return torch_seed(self.config.train.seed, self.fold.seed, self.fold.number, *key)


def build_classifier(job: FoldJob, targets: Targets) -> Classifier:
    """Make the model of a fold, on the CPU; heads of different rows begin with equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed(ENCODER))
        encoder = job.start.encoder(pretrained=job.pretrained)
        torch.manual_seed(job.seed(HEAD))
        model = Classifier(encoder, job.config, targets.n_outputs, targets)
        choose_trained(model, job.config.weights)
    return model


def prediction_of(
    units: Units, job: FoldJob, outcome: dict[str, Any], *, permuted: bool
) -> FoldPrediction:
    """Score the test units, as all commands of a task do."""
    fold, scores = job.fold, np.array(outcome["scores"])
    test, learnt = np.flatnonzero(fold.test), fold.train | fold.validation
    if permuted:  # each unit gets the score of the unit that has its label
        given = scores
        scores = np.empty_like(given)
        scores[np.searchsorted(test, exchanged(units, fold)[test])] = given
    is_number = units.task.kind == "regression"
    sd = float(units.labels.values[learnt].std()) if is_number else 1.0
    found = metrics_of(units, test, scores, sd, np.ones((1, len(test))))
    own = {name: float(values[0]) for name, values in found.items()}
    return FoldPrediction(fold, test, scores, sd, own, {name: np.zeros(0) for name in own})


def exchanged(units: Units, fold: Fold) -> npt.NDArray[np.int64]:
    """Return the unit whose label each unit gets: one of its own side, families kept whole."""
    order = np.arange(len(units))
    for side in (fold.train, fold.validation, fold.test):
        groups = [names[side] for names in (units.labels.family, *units.labels.within)]
        drawn = exchanges(groups, count=1, seed=1000 * fold.seed + fold.number)[0]
        order[side] = order[side][drawn]
    return order
