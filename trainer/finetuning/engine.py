"""Fine-tune on a task: from a store and a training to rows of results, each beside its twin."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from fmritok.errors import expected
from fmritok.hub.snapshots import find_snapshot
from fmritok.pipeline.store.documents.seal import canonical_json, sha256
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.progress import report
from fmritok.quantities import counted
from fmritok.trainer.config import require
from fmritok.trainer.errors import ConfigError, StoppedError
from fmritok.trainer.evaluation.crossval import Row, cross_validate
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.faults import within_memory
from fmritok.trainer.finetuning.config import FinetuneConfig, from_scratch, to_yaml
from fmritok.trainer.finetuning.fold import FoldTraining
from fmritok.trainer.finetuning.folder import FinetuneFolder
from fmritok.trainer.finetuning.job import FoldJob, exchanged, prediction_of
from fmritok.trainer.finetuning.start import Start, read_start
from fmritok.trainer.finetuning.targets import labels_of_units
from fmritok.trainer.finetuning.unit_windows import UnitWindows
from fmritok.trainer.record.finding import find_trained
from fmritok.trainer.tasks.division import SplitOptions, divide
from fmritok.trainer.tasks.split_file import says_who
from fmritok.trainer.tasks.splits import Fold
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units, units_of
from fmritok.trainer.tasks.validation import with_validation
from fmritok.trainer.training.stopping import StopRequest

__all__ = ["CONTROL", "DUMMY", "SCRATCH", "Options", "finetune"]

_logger = logging.getLogger(__name__)

DUMMY, SCRATCH, CONTROL = "dummy", "scratch", "permuted labels"
_CHANCE = "not measured by permuted labels, which take a training each: compare with row dummy"
_LESS_MEMORY = "Choose a smaller data.batch_size or data.window, or --weights head, last or lora."


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is fine-tuned, and on which data.

    Attributes
    ----------
    group : str or None
        Token group; by default the one that the training was on, or the only one.
    where : sequence of str
        ``column=value``: which runs, instead of what the task says of that property.
    split : SplitOptions
        Subjects of the training are looked for among the tested ones, unless another is named.
    source : Path or None
        Training whose encoder is fine-tuned; None: from scratch.
    shape : str or None
        From scratch: a training, or a recipe of ``fmritok train``, whose shape is taken.
    twin : bool
        Train from scratch, too: same shape, folds and seeds, all weights.
    control : bool
        Train on permuted labels, too, and score on labels permuted alike, by giving each test
        unit the score of the one that got its label.
    keep_weights : bool
        Write the weights of the best epoch of each fold.
    workers : int
        Loader processes; results do not depend on it.
    """

    group: str | None = None
    where: Sequence[str] = ()
    split: SplitOptions = SplitOptions()
    source: Path | None = None
    shape: str | None = None
    twin: bool = True
    control: bool = False
    keep_weights: bool = False
    workers: int = 0


@dataclass(frozen=True)
class _Kind:
    """One row that is trained."""

    name: str
    config: FinetuneConfig
    pretrained: bool
    permuted: bool = False


def finetune(
    store: str,
    task: Task,
    config: FinetuneConfig,
    out: Path,
    options: Options,
    *,
    device: torch.device,
) -> Results:
    """Fine-tune on the folds of a task; a stopped fine-tuning goes on in the same folder.

    Parameters
    ----------
    store : str
    task : Task
    config : FinetuneConfig
    out : Path
        Folder; see :mod:`fmritok.trainer.finetuning.folder`.
    options : Options
    device : torch.device

    Returns
    -------
    Results
        Rows ``dummy``, ``finetune (WEIGHTS)``, ``scratch`` and ``permuted labels``.

    Raises
    ------
    ConfigError
        If the store cannot serve the task, or options do not go with it or with one another.
    CheckpointError
        If there is no training, or it was on other tokens.
    StoppedError
        After SIGINT or SIGTERM.
    TrainingError
        If a loss is not a number, or the machine fails.
    """
    if task.kind == "retrieval":
        raise ConfigError(
            expected("Task", task.name, "labels to train on", "retrieval, where nothing is trained",
                     "Use `fmritok probe` or `fmritok baseline`.")
        )  # fmt: skip
    opened = TokenStore(store)
    group = opened.group(options.group or _group_of(options.source or options.shape, opened))
    start = read_start(group, options.source, options.shape)
    config = replace(config, data=replace(config.data, window=config.data.window or start.window))
    fits = (config.data.window or 1) >= start.layout.patch
    wanted = f"at least the {counted(start.layout.patch, 'frame')} of a token"
    require(fits, "data.window", wanted, config.data.window)
    units = units_of(task, group.runs, opened.phenotypes, opened.events, where=options.where)
    split = options.split
    if split.pretraining is None and options.source is not None and says_who(options.source):
        split = split._replace(pretraining=options.source)
    folds, details = divide(units, split, opened.runs)
    folds = with_validation(units, folds, fraction=config.data.validation_fraction)
    windows = UnitWindows.of(group, units, config.data)
    _warn_of_short_windows(windows, start)
    kinds = _kinds(config, options)
    rows = [Row(DUMMY, cross_validate(units, folds, None), {"chance": _CHANCE})]
    with FinetuneFolder(out) as folder, StopRequest() as stop, within_memory(device, _LESS_MEMORY):
        folder.write("finetune.yaml", to_yaml(config))
        work = _Work(group, units, folds, windows, start, folder, options, device, stop)
        jobs = [[work.job(kind, fold) for fold in folds] for kind in kinds]
        for number, (kind, own) in enumerate(zip(kinds, jobs, strict=True)):
            rows.append(work.row(kind, own, number * len(folds), len(kinds) * len(folds)))
        folder.keep_only([job.name for own in jobs for job in own])
    details |= {"store": store, "group": group.name, "config": asdict(config)}
    return Results(units, tuple(folds), tuple(rows), details)


@dataclass(frozen=True)
class _Work:
    """What all rows share."""

    group: TokenGroup
    units: Units
    folds: list[Fold]
    windows: UnitWindows
    start: Start
    folder: FinetuneFolder
    options: Options
    device: torch.device
    stop: StopRequest

    def job(self, kind: _Kind, fold: Fold) -> FoldJob:
        """Return one fold of a row, with its key."""
        labels = None
        if kind.permuted:
            labels = labels_of_units(self.units)[exchanged(self.units, fold)]
        word = {DUMMY: "", SCRATCH: "scratch", CONTROL: "permuted"}.get(kind.name, "finetune")
        name = f"{word}-seed{fold.seed}-fold{fold.number}"
        deciding = {
            "row": kind.name,
            "config": asdict(kind.config),
            "start": self.start.said if kind.pretrained else asdict(self.start.model),
            "sides": fold.sha256(self.units.ids),
            "fold": [fold.seed, fold.number],
            "data": self.data,
        }
        key = _checksum(deciding)
        return FoldJob(
            name, key, self.units, fold, kind.config, self.start, kind.pretrained, labels
        )

    @cached_property
    def data(self) -> str:
        """Checksum of task, labels, runs, windows and tokens."""
        used = self.group.runs["run_id"].isin(self.windows.index.run_id)
        marks = self.group.runs[used][["run_id", "checksum", "tr", "n_frames"]]
        return _checksum(
            {
                "task": asdict(self.units.task),
                "labels": self.units.labels.values.tolist(),
                "tokens": {"name": self.group.name, "contract": self.group.contract},
                "runs": marks.to_dict("records"),
                "windows": self.windows.sha256(),
            }
        )

    def row(self, kind: _Kind, jobs: Sequence[FoldJob], before: int, total: int) -> Row:
        """Train on all folds, but those that are finished already."""
        outcomes = []
        for number, job in enumerate(jobs, before):
            outcome = self.folder.finished(job.name, job.key)
            if self.options.keep_weights and not self.folder.has_weights(job.name):
                outcome = None
            if outcome is None:
                self._refuse_stopped()
                self.folder.begin(job.name)
                report(number, total, "folds")
                training = FoldTraining(
                    job, self.windows, self.folder, device=self.device,
                    workers=self.options.workers, keep_weights=self.options.keep_weights,
                    told=partial(_report, number, total),
                )  # fmt: skip
                outcome = training.run(self.stop)
                self.folder.finish(job.name, job.key, outcome)
            report(number + 1, total, "folds")
            outcomes.append(outcome)
        predictions = tuple(
            prediction_of(self.units, job, outcome, permuted=kind.permuted)
            for job, outcome in zip(jobs, outcomes, strict=True)
        )
        details = {
            "start": self.start.said if kind.pretrained else {"scratch": self.start.said},
            "trained": kind.config.weights.train,
            "parameters": outcomes[0]["parameters"],
            "trained_parameters": outcomes[0]["trained"],
            "best_epochs": [outcome["best"] for outcome in outcomes],
            "epochs": [outcome["epochs"] for outcome in outcomes],
            "at_most_epochs": kind.config.train.epochs,
            "chance": _CHANCE,
        }
        return Row(kind.name, predictions, details)

    def _refuse_stopped(self) -> None:
        if self.stop.signal:
            raise StoppedError(
                expected("Fine-tuning", self.folder.path, "all folds", f"{self.stop.signal}",
                         "Run the same command again, and it goes on."),
                self.stop.signal,
            )  # fmt: skip


def _checksum(tree: dict[str, Any]) -> str:
    return sha256(canonical_json(json.loads(json.dumps(tree))))


def _report(before: int, total: int, share: float) -> None:
    report(before + share, total, "folds")


def _kinds(config: FinetuneConfig, options: Options) -> list[_Kind]:
    """Return the rows that are trained."""
    scratch = _Kind(SCRATCH, from_scratch(config), pretrained=False)
    first = scratch
    if options.source is not None:
        first = _Kind(f"finetune ({config.weights.train})", config, pretrained=True)
    kinds = [first]
    if options.twin and options.source is not None:
        kinds.append(scratch)
    if options.control:
        kinds.append(replace(first, name=CONTROL, permuted=True))
    return kinds


def _group_of(training: Path | str | None, store: TokenStore) -> str | None:
    """Return the token group that a training was on, if the store has one of that name."""
    if training is None or not (Path(training).is_dir() or find_snapshot(str(training))):
        return None
    name = find_trained(Path(training)).group_name
    return name if name in store else None


def _warn_of_short_windows(windows: UnitWindows, start: Start) -> None:
    patch = start.layout.patch
    if windows.events is not None and windows.events.n_frames.max() < patch:
        _logger.warning(
            "Windows of %s are shorter than a token of %s: the rest of it is 0",
            counted(windows.events.n_frames.max(), "frame"), counted(patch, "frame"),
        )  # fmt: skip
