"""The training loop: steps, validation, checkpoints; stops and goes on exactly where it was."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
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
from fmritok.trainer.errors import CheckpointError, StoppedError, TrainingError
from fmritok.trainer.metrics import MetricsLog, draw_losses
from fmritok.trainer.model import TokenTransformer
from fmritok.trainer.objectives.mtm import MaskedTokenModelling
from fmritok.trainer.optim import build_optimizer, learning_rate
from fmritok.trainer.recipe import to_yaml
from fmritok.trainer.split import Split, check_no_leakage, split_runs
from fmritok.trainer.stopping import StopRequest
from fmritok.trainer.streaming import Batch, Meter, Rate, window_loader
from fmritok.trainer.windows import (
    EndlessBatches,
    Request,
    RunIndex,
    steps_per_epoch,
    validation_windows,
)

__all__ = ["Summary", "Trainer"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """How far a training has come; saved in every checkpoint.

    Attributes
    ----------
    step : int
        Steps done.
    epoch, seen : int
        Epoch, and its samples that were trained on.
    validated : int or None
        Step of the last validation.
    validation : dict or None
        Its figures.
    """

    step: int = 0
    epoch: int = 0
    seen: int = 0
    validated: int | None = None
    validation: dict[str, float] | None = None


@dataclass(frozen=True)
class Summary:
    """Outcome of a training.

    Attributes
    ----------
    step : int
    figures : dict
        Of the last validation; of the last training batches without validation runs.
    validated : bool
        Whether the figures are of held-out subjects.
    rate : Rate
        Of this process, start-up and validation not counted.
    checkpoint, picture : Path
    """

    step: int
    figures: dict[str, float]
    validated: bool
    rate: Rate
    checkpoint: Path
    picture: Path


class Trainer:
    """Trains one model on one token group.

    Parameters
    ----------
    config : Config
    group : TokenGroup
    out : Path
        Folder of the training.
    device : torch.device
    workers : int
        Loader processes; the result does not depend on it.
    resume : Path, optional
        Checkpoint to go on from, exactly.
    init_from : Path, optional
        Weights to start from.

    Raises
    ------
    CheckpointError
        If the checkpoint belongs to another configuration, other tokens or another split.
    """

    def __init__(
        self,
        config: Config,
        group: TokenGroup,
        *,
        out: Path,
        device: torch.device,
        workers: int = 0,
        resume: Path | None = None,
        init_from: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self.config, self.group, self.out = config, group, out
        self.device, self.workers = device, workers
        self.console = console or Console(stderr=True)
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
        shape = {"n_tokens": group.n_tokens, "dim": group.dim}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            encoder = TokenTransformer(config.model, **shape)
            self.model = MaskedTokenModelling(encoder, config.objective, **shape).to(device)
        self.optimizer = build_optimizer(self.model, config.optim)
        data, epochs = config.data, config.train.epochs
        per_epoch = steps_per_epoch(
            len(self.index), windows_per_run=data.windows_per_run, batch_size=data.batch_size
        )
        self.n_steps = config.train.steps or per_epoch * (epochs or 0)

        self.position = Position()
        self._last_measures: dict[str, float] = {}
        self._validation_loader: Iterable[Batch] = ()
        out.mkdir(parents=True, exist_ok=True)
        if resume is not None and state is not None:
            load_weights(resume, self.model)
            load_optimizer(resume, self.model, self.optimizer)
            self.position = Position(**state["position"])
            self.metrics = MetricsLog(
                out,
                resume=run_folder(resume),
                size=state["metrics_bytes"],
                step=self.position.step,
            )
        else:
            if init_from is not None:
                load_weights(init_from, self.model)
            self.metrics = MetricsLog(out)
        (out / "config.yaml").write_text(to_yaml(config))
        (out / "split.json").write_text(self.split.to_json())

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
                if stop.signal or step % every == 0 or step == self.n_steps:
                    self._save()
                if stop.signal and step < self.n_steps:
                    raise self._stopped(stop.signal)
        return Summary(
            step=self.position.step,
            figures=self.position.validation or self._last_measures,
            validated=self.position.validation is not None,
            rate=meter.overall,
            checkpoint=list_checkpoints(self.out)[-1],
            picture=draw_losses(self.out),
        )

    def close(self) -> None:
        """End the validation workers and close the metrics."""
        self._validation_loader = ()
        self.metrics.close()

    def _step(self, meter: Meter) -> dict[str, Any]:
        """Train on the next batch, and write what happened to the metrics."""
        config, step = self.config, self.position.step
        lr = learning_rate(config.optim, step, self.n_steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr
        logged = (step + 1) % config.train.log_every == 0 or step + 1 == self.n_steps
        batch = meter.next()
        with self._autocast():
            output = self.model(batch.to(self.device), measure=logged)
        output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip)
        loss, grad_norm = output.loss.item(), norm.item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise self._not_finite(batch, loss, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.position = replace(self.position, step=step + 1, epoch=batch.epoch, seen=batch.seen)

        rate = meter.finish(batch.n_frames * self.group.n_tokens)
        measures = {name: float(m.total / m.n_values) for name, m in output.measures.items()}
        self._last_measures = measures or self._last_measures
        row = {
            "step": step + 1,
            "epoch": batch.epoch,
            **measures,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            **rate._asdict(),
            "memory_bytes": self._memory(),
        }
        self.metrics.write("train", row, draw=logged)
        return row

    def _validate_if_due(self, stop: StopRequest, display: TrainingDisplay) -> bool:
        """Validate every so many steps and at the end, unless it was done or a signal came."""
        step = self.position.step
        due = step > 0 and step % self.config.train.validate_every == 0 or step == self.n_steps
        if not due or self.position.validated == step or not len(self.validation_index):
            return False
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        with torch.no_grad():
            for batch in self._validation_loader:
                if stop.signal:
                    return False
                with self._autocast():
                    output = self.model(batch.to(self.device), measure=True)
                for name, mean in output.measures.items():
                    sums[name][0] += float(mean.total)
                    sums[name][1] += float(mean.n_values)
        figures = {name: total / count for name, (total, count) in sums.items()}
        self.position = replace(self.position, validated=step, validation=figures)
        self.metrics.write("validation", {"step": step, **figures})
        display.validation(step, figures)
        return True

    def _save(self) -> None:
        state = {
            "step": self.position.step,
            "position": asdict(self.position),
            "config": asdict(self.config),
            "group": {"name": self.group.name, "contract": self.group.contract},
            "split": self.split.sha256,
            "metrics_bytes": self.metrics.size,
            "torch": torch.__version__,
        }
        keep = self.config.train.keep_checkpoints
        save_checkpoint(self.out, self.model, self.optimizer, state, keep=keep)

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
            split = split_runs(runs, fraction=data.validation_fraction, seed=self.config.train.seed)
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

    def _training_batches(self) -> Iterable[Batch]:
        data = self.config.data
        batches = EndlessBatches(
            self.index,
            window=data.window,
            windows_per_run=data.windows_per_run,
            batch_size=data.batch_size,
            seed=self.config.train.seed,
            epoch=self.position.epoch,
            seen=self.position.seen,
        )
        return self._loader(self.index, batches)

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
        return window_loader(self.group, index, batches, workers=self.workers, pin_memory=pin)

    def _autocast(self) -> torch.autocast:
        """Use bfloat16 on a GPU, and elsewhere only if it is asked for."""
        precision = self.config.train.precision
        use = precision == "bf16" or (precision == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=use)

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

    def _not_finite(self, batch: Batch, loss: float, grad_norm: float) -> TrainingError:
        runs = ", ".join(sorted(set(self.index.run_id[batch.runs.numpy()].tolist())))
        step = self.position.step + 1
        return TrainingError(
            expected("Loss of step", f"{step} on the runs {runs}", "finite numbers",
                     f"loss {loss} and gradient norm {grad_norm}",
                     "Check these runs with `fmritok verify`; else lower optim.lr.")
        )  # fmt: skip
