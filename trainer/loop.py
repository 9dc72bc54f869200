"""The training loop: steps, validation, checkpoints; stops and goes on exactly where it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from rich.console import Console

from fmritok.pipeline.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.checkpoint import (
    list_checkpoints,
    load_optimizer,
    load_weights,
    read_state,
    refuse_another,
    run_folder,
    save_checkpoint,
)
from fmritok.trainer.config import Config
from fmritok.trainer.display import TrainingDisplay
from fmritok.trainer.distributed import Ranks, ShareOfBatches, total_over_ranks
from fmritok.trainer.errors import CheckpointError, StoppedError, TrainingError
from fmritok.trainer.layout import TokenLayout
from fmritok.trainer.learner import Learner, Step
from fmritok.trainer.metrics import MetricsLog, draw_losses
from fmritok.trainer.mixing import MixedGroup, mixed_windows
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.progress import Position, Summary
from fmritok.trainer.recipe import to_yaml
from fmritok.trainer.sharding import whole_tensors
from fmritok.trainer.split import Split, check_no_leakage, split_runs, with_subjects
from fmritok.trainer.stopping import StopRequest
from fmritok.trainer.streaming import Batch, Meter, window_loader
from fmritok.trainer.tracking import WandbRun
from fmritok.trainer.windows import (
    Request,
    RunIndex,
    WindowBatches,
    Windows,
    random_windows,
    validation_windows,
)

__all__ = ["Trainer"]

_logger = logging.getLogger(__name__)


class Trainer:
    """Trains one model on one token group, of one store or of several.

    Parameters
    ----------
    config : Config
    group : TokenGroup or MixedGroup
    out : Path
        Folder of the training.
    device : torch.device
    workers : int
        Loader processes; the result does not depend on it.
    resume : Path, optional
        Checkpoint to go on from, exactly.
    init_from : Path, optional
        Weights to start from.
    ranks : Ranks, optional
        This process among those that train together; the result depends on how many there are by
        the order of sums alone.
    shard : bool
        Divide the model among the processes; see :mod:`fmritok.trainer.sharding`.
    wandb : str, optional
        Project of W&B to follow the training in.

    Raises
    ------
    CheckpointError
        If the checkpoint belongs to another configuration, other tokens or another split.
    """

    def __init__(
        self,
        config: Config,
        group: TokenGroup | MixedGroup,
        *,
        out: Path,
        device: torch.device,
        workers: int = 0,
        resume: Path | None = None,
        init_from: Path | None = None,
        ranks: Ranks | None = None,
        shard: bool = False,
        wandb: str | None = None,
        console: Console | None = None,
    ) -> None:
        self.config, self.group, self.out = config, group, out
        self.device, self.workers = device, workers
        self.ranks = ranks or Ranks()
        self.console = console or Console(stderr=True, quiet=not self.ranks.is_first)
        state = None if resume is None else self._check_state(resume)
        self.split = self._split(resume)
        if state is not None:
            saved, now = {"sha256": state["split"]}, {"sha256": self.split.sha256}
            refuse_another(run_folder(resume), "Split", saved, now, "Restore split.json.")  # type: ignore[arg-type]
        self.index = RunIndex.of(group.runs, self.split.train)
        self.validation_index = RunIndex.of(group.runs, self.split.validation)

        if device.type == "cuda" and config.train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        layout = TokenLayout.of(group, patch=config.model.patch, window=config.data.window)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.model = build_objective(config, layout)
        weights = resume or init_from
        if weights is not None:
            load_weights(weights, self.model)
        epochs = config.train.epochs
        self.n_steps = config.train.steps or self._batches().steps_per_epoch * (epochs or 0)
        self.learner = Learner(
            self.model,
            config,
            n_steps=self.n_steps,
            device=device,
            ranks=self.ranks,
            shard=shard,
        )

        self.position = Position()
        self._last_measures: dict[str, float] = {}
        self._validation_loader: Iterable[Batch] = ()
        if resume is not None and state is not None:
            load_optimizer(resume, self.model, self.learner.optimizer)
            self.position = Position(**state["position"])
        self.metrics = self._metrics(resume, state, wandb) if self.ranks.is_first else None
        self.learner.prepare()

    def run(self) -> Summary:
        """Train to the end.

        Raises
        ------
        StoppedError
            After SIGINT or SIGTERM, when the checkpoint is saved.
        TrainingError
            If the loss is not a number; the batch's runs are named.
        """
        every = self.config.train.checkpoint_every
        display = TrainingDisplay(self.console, n_steps=self.n_steps, step=self.position.step)
        meter = Meter(self._training_batches())
        self._validation_loader = self._validation_batches()
        with closing(self), closing(meter), StopRequest() as stop, display:
            if self._validate_if_due(stop, display):  # a stop had left it undone
                self._save()
            while self.position.step < self.n_steps:
                row = self._step(meter)
                display.step(row["step"], row["loss"], meter.overall)
                self._validate_if_due(stop, display)
                step = self.position.step
                signal = self._agreed(stop)
                if signal or step % every == 0 or step == self.n_steps:
                    self._save()
                if signal and (step < self.n_steps or self._is_validation_due):
                    raise self._stopped(signal)
        return Summary(
            step=self.position.step,
            figures=self.position.validation or self._last_measures,
            shown=self.model.figures,
            validated=self.position.validation is not None,
            rate=meter.overall,
            checkpoint=list_checkpoints(self.out)[-1],
            picture=self._draw(),
        )

    def close(self) -> None:
        """End the validation workers and close the metrics."""
        self._validation_loader = ()
        if self.metrics is not None:
            self.metrics.close()

    def _step(self, meter: Meter) -> dict[str, Any]:
        """Train on the next batch, and write what happened to the metrics."""
        step = self.position.step
        logged = (step + 1) % self.config.train.log_every == 0 or step + 1 == self.n_steps
        batch = meter.next()
        done = self.learner.learn(batch, step, measure=logged)
        if not done.is_finite:
            raise self._not_finite(batch, done)
        seen = done.n_windows
        if batch.epoch == self.position.epoch:
            seen += self.position.seen
        self.position = replace(self.position, step=step + 1, epoch=batch.epoch, seen=seen)
        rate = meter.finish(done.n_frames * self.group.n_tokens)
        self._last_measures = done.measures or self._last_measures
        row = {
            "step": step + 1,
            "epoch": batch.epoch,
            **done.measures,
            "loss": done.loss,
            "lr": done.lr,
            "grad_norm": done.grad_norm,
            **rate._asdict(),
            "memory_bytes": self._memory(),
        }
        if self.metrics is not None:
            self.metrics.write("train", row, draw=logged)
        return row

    def _validate_if_due(self, stop: StopRequest, display: TrainingDisplay) -> bool:
        """Validate every so many steps and at the end, unless it was done or a signal came."""
        if not self._is_validation_due:
            return False
        step = self.position.step
        # Several processes cannot leave in the middle: they sum up together.
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

    def _agreed(self, stop: StopRequest) -> str | None:
        """Return the signal to stop at, the same on every rank."""
        if self.ranks.size == 1:
            return stop.signal
        asked = total_over_ranks(torch.tensor(float(stop.signal is not None)))
        return (stop.signal or "a signal to another process") if asked else None

    def _metrics(
        self, resume: Path | None, state: dict[str, Any] | None, project: str | None
    ) -> MetricsLog:
        """Make the folder of the training, with what is known before its first step."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.yaml").write_text(to_yaml(self.config))
        (self.out / "split.json").write_text(self.split.to_json())
        wandb = None if project is None else WandbRun(self.out, project, asdict(self.config))
        if resume is None or state is None:
            return MetricsLog(self.out, wandb=wandb)
        return MetricsLog(
            self.out,
            resume=run_folder(resume),
            size=state["metrics_bytes"],
            step=self.position.step,
            wandb=wandb,
        )

    def _draw(self) -> Path:
        if self.ranks.is_first:
            draw_losses(self.out, self.model.figures)
        return self.out / "loss.png"

    def _save(self) -> None:
        """Write a checkpoint; all processes take part, the first one writes."""
        optimizer = self.learner.optimizer
        tensors = whole_tensors(self.model, optimizer, keep=self.ranks.is_first)
        if self.metrics is not None:
            keep = self.config.train.keep_checkpoints
            save_checkpoint(self.out, tensors, self._state(self.metrics), keep=keep)
        self.ranks.wait()

    def _state(self, metrics: MetricsLog) -> dict[str, Any]:
        return {
            "step": self.position.step,
            "position": asdict(self.position),
            "config": asdict(self.config),
            "group": {"name": self.group.name, "contract": self.group.contract},
            "split": self.split.sha256,
            "metrics_bytes": metrics.size,
            "torch": torch.__version__,
        }

    def _check_state(self, resume: Path) -> dict[str, Any]:
        """Read a checkpoint's state, and refuse one that this training cannot go on from."""
        state = read_state(resume)
        refuse_another(
            resume, "Configuration", state["config"], asdict(self.config),
            "Resume without changed options, or start a new training with --init-from.",
        )  # fmt: skip
        tokens = {"name": self.group.name, **self.group.contract}
        refuse_another(
            resume, "Tokens", {"name": state["group"]["name"], **state["group"]["contract"]},
            tokens, "Use the store it was trained on, or start a new training with --init-from.",
        )  # fmt: skip
        latest = list_checkpoints(self.out)[-1:]
        if latest and latest[0].absolute() != resume.absolute():
            raise CheckpointError(
                expected("Checkpoint for resuming", resume, f"the latest of {self.out}",
                         f"an earlier one than {latest[0].name}",
                         "Delete the later ones, or branch off into another folder with --out.")
            )  # fmt: skip
        return state

    def _split(self, resume: Path | None) -> Split:
        """Split the store's runs, or take the split of the training that is resumed."""
        runs, data = self.group.runs, self.config.data
        if resume is not None:
            file = run_folder(resume) / "split.json"
            split = Split.from_json(file)
        else:
            seed = self.config.train.seed
            split = split_runs(runs, fraction=data.validation_fraction, seed=seed)
            if data.subjects is not None:
                split = with_subjects(runs, split, subjects=data.subjects, seed=seed)
        check_no_leakage(runs, split)
        if not split.train:
            raise TrainingError(
                expected("Token group", f"{self.group.name} of {self.group.location}",
                         "at least one finished run", "none", "Run `fmritok tokenize` first.")
            )  # fmt: skip
        if not split.validation:
            why = "data.validation_fraction is 0" if not data.validation_fraction else (
                "the store has one subject (or family) only, and windows of one subject must not "
                "be on both sides"
            )  # fmt: skip
            _logger.warning("Training WITHOUT validation: %s", why)
        return split

    def _windows(self, epoch: int) -> Windows:
        """Return an epoch's windows: with weights, each store has its share of them."""
        data, seed = self.config.data, self.config.train.seed
        options: dict[str, Any] = {
            "window": data.window,
            "windows_per_run": data.windows_per_run,
            "windows_per_read": data.windows_per_read,
            "read_frames": data.read_frames,
        }
        weights = self.group.weights if isinstance(self.group, MixedGroup) else None
        if weights is None:
            return random_windows(self.index, seed=seed, epoch=epoch, **options)
        return mixed_windows(self.index, weights, seed=seed, epoch=epoch, **options)

    def _batches(self, epoch: int = 0, seen: int = 0) -> WindowBatches:
        size = self.config.data.batch_size
        return WindowBatches(self._windows, batch_size=size, epoch=epoch, seen=seen)

    def _training_batches(self) -> Iterable[Batch]:
        return self._loader(self.index, self._batches(self.position.epoch, self.position.seen))

    def _validation_batches(self) -> Iterable[Batch]:
        data = self.config.data
        windows = validation_windows(
            self.validation_index,
            window=data.window,
            at_most=data.max_validation_windows,
            seed=self.config.train.seed,
        )
        return self._loader(self.validation_index, list(windows.batches(data.batch_size)))

    def _loader(self, index: RunIndex, batches: Iterable[list[Request]]) -> Iterable[Batch]:
        pin = self.device.type == "cuda"
        if self.ranks.size > 1:
            batches = ShareOfBatches(batches, self.ranks)
        return window_loader(self.group, index, batches, workers=self.workers, pin_memory=pin)

    def _memory(self) -> int:
        """Return the peak of the GPU's memory, or this process's resident memory."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def _stopped(self, signal: str) -> StoppedError:
        step, checkpoint = self.position.step, list_checkpoints(self.out)[-1]
        return StoppedError(
            expected("Training", self.out, f"{self.n_steps} steps", f"{signal} after step {step}",
                     f"Saved in {checkpoint}: go on with --resume {self.out}")
        )  # fmt: skip

    def _not_finite(self, batch: Batch, step: Step) -> TrainingError:
        shares = [self.index.run_id[batch.runs.cpu().numpy()].tolist()] * self.ranks.size
        if self.ranks.size > 1:
            dist.all_gather_object(shares, shares[0])
        runs = ", ".join(sorted({run for share in shares for run in share}))
        number = self.position.step + 1
        return TrainingError(
            expected("Loss of step", f"{number} on the runs {runs}", "finite numbers",
                     f"loss {step.loss} and gradient norm {step.grad_norm}",
                     "Check these runs with `fmritok verify`; else lower optim.lr.")
        )  # fmt: skip
