"""The training loop: from the checkpoint it starts from, by steps and validations, to its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fmritok.device import peak_memory
from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.quantities import counted
from fmritok.terminal import new_console
from fmritok.trainer.config import Config
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import StoppedError, TrainingError
from fmritok.trainer.faults import losing_others, within_memory
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.record.finding import find_weights, init_weights
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.loss_curve import plot_losses
from fmritok.trainer.record.metrics import MetricsLog, begin_record, last_figures, optionally
from fmritok.trainer.record.resuming import (
    choose_split,
    resumed_config,
    to_resume,
)
from fmritok.trainer.record.throughput import Meter
from fmritok.trainer.training.display import TrainingDisplay
from fmritok.trainer.training.feed import Feed
from fmritok.trainer.training.learner import Learner
from fmritok.trainer.training.progress import Position, Summary
from fmritok.trainer.training.saving import Saver
from fmritok.trainer.training.setup import Setup
from fmritok.trainer.training.step import BegunSteps, Step
from fmritok.trainer.training.stopping import StopRequest

__all__ = ["Trainer"]

_MORE_MEMORY = (
    "Start a new training with a smaller data.batch_size or data.window, a larger train.accumulate "
    "(the batch in parts) or model.checkpointing=full. --init-from takes the weights of this one."
)


class _Noted(NamedTuple):
    """What the metrics say of a step besides its figures."""

    step: int
    epoch: int
    runs: Tensor
    logged: bool


class Trainer:
    """Trains one model on one token group, of one store or of several.

    Parameters
    ----------
    config : Config
    group : TokenGroup or MixedGroup
    setup : Setup
        Folder, device, processes, and what to start from.

    Attributes
    ----------
    split : Split
        Runs to train on and to validate on.
    index, validation_index : RunIndex
        The runs of both sides.
    model : ObjectiveModule
        The objective with its weights.
    learner : Learner
        The model with its optimizer.
    position : Position
        How far the training is.
    n_steps : int
        Steps of the whole training.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged, or belongs to another configuration or other tokens.
    TrainingError
        If another training has locked the folder, or it cannot be written.
    """

    def __init__(self, config: Config, group: TokenGroup | MixedGroup, setup: Setup) -> None:
        self.config, self.group, self.setup = config, group, setup
        self.device, self.ranks, self.folder = setup.device, setup.ranks, setup.folder
        self.metrics: MetricsLog | None = None
        self._saved: Path | None = None
        self._validation_loader: Iterable[Batch] = ()
        self._last_measures: dict[str, float] = {}
        try:
            with self._faults():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Lock the folder, and build everything that the first step needs."""
        config, group, setup = self.config, self.group, self.setup
        device, ranks, resume, init_from = self.device, self.ranks, setup.resume, setup.init_from
        path = ranks.agreed(self.folder.path)
        if path != self.folder.path:
            self.folder = TrainingFolder(path)
        ranks.first_only(self.folder.hold)
        checkpoint = None
        if resume is None:
            ranks.first_only(self.folder.refuse_used)
        else:
            checkpoint = ranks.of_first(lambda: to_resume(resume, self.folder, self.config, group))
            config = self.config = resumed_config(config, checkpoint)
        self.split = ranks.of_first(lambda: choose_split(config, group, checkpoint))
        self.feed = Feed(
            config, group, self.split,
            ranks=ranks, workers=setup.workers, pin_memory=device.type == "cuda",
        )  # fmt: skip
        self.index, self.validation_index = self.feed.index, self.feed.validation_index
        self._saver = Saver(self.folder, ranks, config, group, self.split)

        if device.type == "cuda" and config.train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            # No result depends on memory before it is written: filling it costs time alone.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        layout = TokenLayout.of(group, patch=config.model.patch, window=config.data.window)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.model = build_objective(config, layout)
        if init_from is not None:
            init_weights(ranks.of_first(lambda: find_weights(init_from)), self.model)
        if checkpoint is not None:
            checkpoint.load_weights(self.model)
        epochs = config.train.epochs
        self.n_steps = config.train.steps or self.feed.steps_per_epoch * (epochs or 0)
        self.learner = Learner(
            self.model, config, n_steps=self.n_steps, device=device, ranks=ranks, shard=setup.shard
        )
        self.position = Position()
        if checkpoint is not None:
            checkpoint.load_optimizer(self.model, self.learner.optimizer)
            self.position = Position(**checkpoint.state["position"])
            if self.folder.has(checkpoint):
                self._saved = checkpoint.folder
        self.metrics = ranks.first_only(
            lambda: begin_record(self.folder, config, self.split, checkpoint, setup.wandb)
        )
        self.learner.prepare()

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, and the last validation."""
        return self.position.step >= self.n_steps and not self._is_validation_due

    def run(self) -> Summary:
        """Train to the end, and return the result, also of a finished training.

        Raises
        ------
        StoppedError
            After SIGINT or SIGTERM, when the checkpoint is saved.
        TrainingError
            If the loss is not a number (the batch's runs are named), or if the machine fails:
            disk, memory, loader workers, another process.
        """
        console = new_console(stderr=True, quiet=not self.ranks.is_first)
        display = TrainingDisplay(console, n_steps=self.n_steps, step=self.position.step)
        with closing(self), self._faults():
            rate = None
            if not self.is_finished:
                meter = Meter(self.feed.training(self.position))
                self._validation_loader = self.feed.validation()
                with closing(meter), StopRequest() as stop, display:
                    self._train(meter, stop, display)
                rate = meter.overall
            else:
                self._last_measures = self.ranks.of_first(lambda: last_figures(self.folder.path))
                if self._saved is None:  # resumed in another folder
                    self._save()
                self._saver.drop_later(self.position.step)
            assert self._saved is not None
            picture: Path | None = self.folder.picture
            draw = partial(plot_losses, self.folder, self.model.figures)
            if self.ranks.is_first and not optionally(picture, draw):
                picture = None
            return Summary(
                step=self.position.step,
                figures=self.position.validation or self._last_measures,
                shown=self.model.figures,
                validated=self.position.validation is not None,
                rate=rate,
                checkpoint=self._saved,
                picture=picture,
            )

    def close(self) -> None:
        """Stop the validation workers, close the metrics and unlock the folder."""
        self._validation_loader = ()
        if self.metrics is not None:
            self.metrics.close()
        self.folder.release()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise one error for each fault of the machine."""
        with (
            losing_others(self.folder.path, self.ranks.size),
            within_memory(self.device, _MORE_MEMORY),
        ):
            yield

    def _train(self, meter: Meter, stop: StopRequest, display: TrainingDisplay) -> None:
        """Train, validate and save until the end or a signal."""
        if self._is_validation_due and self._validate(stop, display):  # left undone
            self._save()
        begun = BegunSteps(partial(self._settle, meter, display))
        while self.position.step < self.n_steps:
            self._step(meter, begun)
            if self._is_validation_due:
                begun.finish()
                self._validate(stop, display)
            step = self.position.step
            signal = stop.agreed(self.ranks)
            due = step % self.config.train.checkpoint_every == 0
            if signal or due or step == self.n_steps:
                begun.finish()
                self._save()
            if signal and (step < self.n_steps or self._is_validation_due):
                raise self._stopped(signal)

    def _step(self, meter: Meter, begun: BegunSteps[_Noted]) -> None:
        """Begin to train on the next batch."""
        step = self.position.step + 1
        logged = step % self.config.train.log_every == 0 or step == self.n_steps
        batch = meter.next(lambda: begun.is_computing)
        done = self.learner.learn(batch, step - 1, measure=logged)
        seen = done.n_windows
        if batch.epoch == self.position.epoch:
            seen += self.position.seen
        self.position = replace(self.position, step=step, epoch=batch.epoch, seen=seen)
        begun.add(done, _Noted(step, batch.epoch, batch.runs, logged))

    def _settle(self, meter: Meter, display: TrainingDisplay, done: Step, noted: _Noted) -> None:
        """Read the figures of a step, and write its metrics."""
        if not done.is_finite:
            raise self._not_finite(done, noted)
        rate = meter.finish(done.n_frames * self.group.n_tokens)
        self._last_measures = done.measures or self._last_measures
        row = {
            "step": noted.step,
            "epoch": noted.epoch,
            **done.measures,
            "loss": done.loss,
            "lr": done.lr,
            "grad_norm": done.grad_norm,
            **rate._asdict(),
            "memory_bytes": peak_memory(self.device),
        }
        if self.metrics is not None:
            self.metrics.write("train", row, plot=noted.logged)
        display.step_done(noted.step, done.loss, meter.overall)

    def _validate(self, stop: StopRequest, display: TrainingDisplay) -> bool:
        """Validate; return whether it was completed."""
        step = self.position.step
        # Several processes finish a validation: they sum their figures together.
        figures = self.learner.evaluate(
            self._validation_loader, lambda: stop.signal and self.ranks.size == 1
        )
        if figures is None:
            return False
        self.position = replace(self.position, validated=step, validation=figures)
        if self.metrics is not None:
            self.metrics.write("validation", {"step": step, **figures})
        display.validation(step, figures, self.model.figures)
        return True

    @property
    def _is_validation_due(self) -> bool:
        step = self.position.step
        due = step > 0 and step % self.config.train.validate_every == 0 or step == self.n_steps
        return due and self.position.validated != step and len(self.validation_index) > 0

    def _save(self) -> None:
        def rows() -> bytes:
            assert self.metrics is not None  # in the first process
            return self.metrics.rows()

        self._saved = self._saver.save(self.model, self.learner.optimizer, self.position, rows)

    def _stopped(self, signal: str) -> StoppedError:
        step, out = self.position.step, self.folder.path
        return StoppedError(
            expected("Training", out, counted(self.n_steps, "step"), f"{signal} after step {step}",
                     f"Saved in {self._saved}: go on with --resume {out}"),
            signal,
        )  # fmt: skip

    def _not_finite(self, step: Step, noted: _Noted) -> TrainingError:
        shares = [self.index.run_id[noted.runs.cpu().numpy()].tolist()] * self.ranks.size
        if self.ranks.size > 1:
            dist.all_gather_object(shares, shares[0])
        runs = ", ".join(sorted({run for share in shares for run in share}))
        return TrainingError(
            expected("Loss of step", f"{noted.step} on the runs {runs}", "finite numbers",
                     f"loss {step.loss} and gradient norm {step.grad_norm}",
                     "Check these runs with `fmritok verify`; else lower optim.lr.")
        )  # fmt: skip
