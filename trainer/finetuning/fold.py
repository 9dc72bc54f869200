"""Train on one fold, choose the epoch on its validation side, predict its test side.

Random numbers of a step follow from the fold's seed and the step alone, so a fold that was stopped
anywhere goes on to the same predictions, on a CPU to the last bit.
"""

# X: outputs, one for each class, or one number

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.config import Config, TrainConfig
from fmritok.trainer.data.windows import Windows
from fmritok.trainer.errors import StoppedError, TrainingError
from fmritok.trainer.evaluation.crossval import metrics_of
from fmritok.trainer.evaluation.metrics import LOWER_IS_BETTER
from fmritok.trainer.finetuning.folder import FinetuneFolder
from fmritok.trainer.finetuning.job import STEP, WINDOWS, FoldJob, build_classifier
from fmritok.trainer.finetuning.kept import kept
from fmritok.trainer.finetuning.targets import Targets
from fmritok.trainer.finetuning.unit_windows import UnitWindows
from fmritok.trainer.finetuning.weights import (
    layered_groups,
    trained_state,
)
from fmritok.trainer.parallel.distributed import Ranks
from fmritok.trainer.parallel.sharding import whole_tensors
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.training.learner import Learner
from fmritok.trainer.training.step import BegunSteps, Step
from fmritok.trainer.training.stopping import StopRequest

__all__ = ["FoldTraining"]

_BEST = "best.safetensors"
#: Between two checkpoints, s.
SAVE_EVERY_S = 60.0

Floats = npt.NDArray[np.floating[Any]]


@dataclass
class _Course:
    """How far a fold is."""

    step: int = 0
    epoch: int = 0
    seen: int = 0
    loss: float = 0.0
    """summed over the steps of this epoch"""
    losses: int = 0
    best: int = 0
    """best epoch, from 1 on"""
    reached: tuple[float, float] = (-np.inf, -np.inf)
    """in it: the task's metric, the larger the better, and minus the loss"""
    rows: list[dict[str, Any]] = field(default_factory=list)


class FoldTraining:
    """Trains on one fold, to the end or to a signal; goes on where it was.

    Parameters
    ----------
    job : FoldJob
    windows : UnitWindows
    folder : FinetuneFolder
    device : torch.device
    workers : int
        Loader processes; the result does not depend on it.
    keep_weights : bool
        Write the weights of the best epoch.
    told : callable
        Given the share of the epochs that is done.

    Raises
    ------
    ConfigError
        If all training units have the same label, or weights cannot be trained as configured.
    """

    def __init__(
        self,
        job: FoldJob,
        windows: UnitWindows,
        folder: FinetuneFolder,
        *,
        device: torch.device,
        workers: int = 0,
        keep_weights: bool = False,
        told: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.job, self.windows, self.folder = job, windows, folder
        self.device, self.workers, self.keep_weights = device, workers, keep_weights
        self.told = told
        config = job.config
        self.targets = Targets(job.units, job.fold, job.config.loss, job.labels)
        self.model = build_classifier(job, self.targets)
        self.trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.total = sum(p.numel() for p in self.model.parameters())
        per_epoch = -(-len(self._windows_of(0)) // config.data.batch_size)
        self.n_steps = per_epoch * config.train.epochs
        plain = Config(
            optim=config.optim, train=TrainConfig(dtype=config.train.dtype, steps=self.n_steps)
        )
        checkpoint = folder.unfinished(job.name, job.key)
        if checkpoint is not None:
            checkpoint.load_weights(self.model)
        self.learner = Learner(
            self.model, plain, n_steps=self.n_steps, device=device, ranks=Ranks(),  # type: ignore[arg-type]
            groups=layered_groups(self.model, config.optim.layer_decay, config.optim.decay),
        )  # fmt: skip
        self.course, self.best = _Course(), trained_state(self.model)
        if checkpoint is not None:
            self._go_on(checkpoint)
        self._saved_at = time.monotonic()

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Return the outcome: ``scores`` of the test units, ``epochs``, ``best`` epoch, ``curve``.

        Raises
        ------
        StoppedError
            After a signal, when a checkpoint is saved.
        TrainingError
            If the loss or an output is not a number; names the runs or units.
        """
        config, course = self.job.config.train, self.course
        while course.epoch < config.epochs:
            patience = config.patience
            if patience is not None and course.best and course.epoch - course.best >= patience:
                break
            self._train(stop)
            self._validate()
            self.told(course.epoch / config.epochs)
            if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
                self._save()
        self.model.load_state_dict(self.best, strict=False)
        outputs = self._predict(self.job.fold.test)
        if self.keep_weights:
            job = self.job
            state, said = kept(self.model, job.config, self.targets, job.units, self.windows.group)
            self.folder.write_weights(job.name, state, said)
        curve = "".join(json.dumps(row, sort_keys=True) + "\n" for row in course.rows)
        self.folder.write(f"curves/{self.job.name}.jsonl", curve)
        return {
            "scores": self.targets.scores(outputs).tolist(),
            "epochs": course.epoch,
            "best": course.best,
            "curve": course.rows,
            "parameters": self.total,
            "trained": self.trained,
        }

    def _windows_of(self, epoch: int) -> Windows:
        key = (self.job.config.train.seed, self.job.fold.seed, self.job.fold.number, WINDOWS)
        return self.windows.training(self.job.fold.train, key=key, epoch=epoch)

    def _train(self, stop: StopRequest) -> None:
        """Take the steps of an epoch that are left."""
        course = self.course
        self.model.train()
        windows = self._windows_of(course.epoch)
        batches = self.windows.batches(
            windows, seen=course.seen, workers=self.workers, pin_memory=self.device.type == "cuda"
        )
        begun = BegunSteps(self._settle)
        for batch in batches:
            with torch.random.fork_rng(devices=self._devices):
                torch.manual_seed(self.job.seed(STEP, course.step))
                done = self.learner.learn(batch, course.step, measure=False)
            begun.add(done, batch.runs)
            course.step, course.seen = course.step + 1, batch.seen
            if stop.signal:
                begun.finish()
                self._save()
                raise self._stopped(stop.signal)
            share = course.seen / len(windows)
            self.told((course.epoch + share) / self.job.config.train.epochs)
        begun.finish()
        course.epoch, course.seen = course.epoch + 1, 0

    def _settle(self, done: Step, runs: Tensor) -> None:
        """Read the loss of a step."""
        if not done.is_finite:
            raise self._not_finite(runs, done.loss)
        self.course.loss += done.loss
        self.course.losses += 1

    def _validate(self) -> None:
        """Score the validation side, and keep the weights of the best epoch."""
        course, units, fold = self.course, self.job.units, self.job.fold
        chosen = np.flatnonzero(fold.validation)
        outputs = self._predict(fold.validation)
        targets = self.targets
        with torch.no_grad():
            wanted = targets.of(torch.from_numpy(chosen).to(self.device))
            found = torch.from_numpy(outputs).float().to(self.device)
            loss = float(targets.losses(found, wanted).mean())
        metric = units.task.metric
        truth = None if self.job.labels is None else self.job.labels[chosen]
        ones = np.ones((1, len(chosen)))
        figures = metrics_of(units, chosen, targets.scores(outputs), 1.0, ones, truth)
        value = float(figures[metric][0])
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        # One class, or one number, on the validation side: the loss alone decides.
        reached = (sign * value if np.isfinite(value) else 0.0, -loss)
        if reached > course.reached:
            course.best, course.reached = course.epoch, reached
            self.best = trained_state(self.model)
        course.rows.append(
            {
                "epoch": course.epoch,
                "step": course.step,
                "loss": course.loss / course.losses,
                "validation_loss": loss,
                f"validation_{metric}": value if np.isfinite(value) else None,
            }
        )
        course.loss, course.losses = 0.0, 0

    def _predict(self, side: npt.NDArray[np.bool_]) -> Floats:
        """Return the outputs of a side's units, each the mean over its windows (n, X)."""
        units = np.flatnonzero(side)
        place = np.full(len(side), -1)
        place[units] = np.arange(len(units))
        sums = np.zeros((len(units), self.targets.n_outputs))
        counts = np.zeros(len(units))
        self.model.eval()
        batches = self.windows.batches(self.windows.fixed(side), workers=self.workers)
        with torch.no_grad():
            for batch in batches:
                assert batch.labels is not None
                with self.learner.autocast():
                    found = self.model.outputs(batch.to(self.device))
                rows = place[batch.labels.numpy()]
                np.add.at(sums, rows, found.double().cpu().numpy())
                np.add.at(counts, rows, 1)
        outputs = sums / counts[:, None]
        wrong = ~np.isfinite(outputs).all(axis=1)
        if wrong.any():
            raise TrainingError(
                expected("Predictions", f"of {', '.join(self.job.units.ids[units[wrong]][:3])}",
                         "finite numbers", f"NaN or infinity in {wrong.sum()} of {len(units)}",
                         "Check these runs with `fmritok verify`; else lower optim.lr.")
            )  # fmt: skip
        return outputs

    def _save(self) -> None:
        course = asdict(self.course)
        if not self.course.best:
            course["reached"] = None  # JSON has no infinity
        state = {"step": self.course.step, "key": self.job.key, "course": course}
        tensors = whole_tensors(self.model, self.learner.optimizer)
        self.folder.save(self.job.name, tensors, state, {_BEST: save(self.best)})
        self._saved_at = time.monotonic()

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Take up optimizer, best weights and position."""
        checkpoint.load_optimizer(self.model, self.learner.optimizer)
        self.best = load(checkpoint.read_bytes(_BEST))
        self.course = _Course(**checkpoint.state["course"])
        reached = self.course.reached
        self.course.reached = tuple(reached) if reached else _Course().reached  # type: ignore[assignment]

    @property
    def _devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _stopped(self, signal: str) -> StoppedError:
        return StoppedError(
            expected("Fine-tuning", self.folder.path, "all folds",
                     f"{signal} in epoch {self.course.epoch + 1} of {self.job.name}",
                     "Saved: run the same command again, and it goes on."),
            signal,
        )  # fmt: skip

    def _not_finite(self, runs: Tensor, loss: float) -> TrainingError:
        names = ", ".join(sorted(set(self.windows.index.run_id[runs.numpy()].tolist()))[:5])
        return TrainingError(
            expected("Loss", f"of {self.job.name} on the runs {names}", "finite numbers",
                     f"{loss}", "Check these runs with `fmritok verify`; else lower optim.lr.")
        )  # fmt: skip
