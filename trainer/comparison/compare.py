"""The comparison: train every contestant, score it, write one table and one figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fmritok.pictures.style import house_style, png
from fmritok.pipeline.store.reader import TokenStore
from fmritok.quantities import counted
from fmritok.trainer.comparison.finetuned import finetuned_rows
from fmritok.trainer.comparison.protocol import Contestant, plan_comparison, unequal
from fmritok.trainer.comparison.scoring import require_served, score_encoders
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.results import write_results
from fmritok.trainer.faults import write_whole, writing
from fmritok.trainer.finetuning.config import FinetuneConfig
from fmritok.trainer.recipe import read_recipe
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.report.score_figures import draw_rows
from fmritok.trainer.report.scores import TaskScores, join_scores
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.training.loop import Trainer
from fmritok.trainer.training.setup import Setup

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes
    ----------
    table : pd.DataFrame
        One row for each model: score with interval, and what it was trained on.
    protocol : list of str
        What was equal, and what was not.
    scores : TaskScores
    """

    table: pd.DataFrame
    protocol: list[str]
    scores: TaskScores


def compare(
    store: str,
    task: Task,
    groups: Sequence[str],
    *,
    out: Path,
    objectives: Sequence[str] = ("mtm",),
    recipe: str = "tiny",
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seconds: float | None = None,
    where: Sequence[str] = (),
    permutations: int = 0,
    finetuning: FinetuneConfig | None = None,
    device: torch.device | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare token groups and objectives on one task, under one protocol.

    Each is pretrained and scored by a linear model beside an untrained twin, connectivity and the
    dummy, on the same folds. Finished trainings and folds in the folder are used again.

    Parameters
    ----------
    store : str
    task : Task
    groups : sequence of str
    out : Path
        Folder: ``trainings/``, ``finetune/``, ``scores/``, ``compare.csv``, ``compare.png``.
    objectives, recipe, overrides, steps, seconds
        See :func:`fmritok.trainer.comparison.protocol.plan_comparison`.
    where : sequence of str
        ``column=value``: which runs are scored.
    permutations : int
        Of the labels.
    finetuning : FinetuneConfig, optional
        Fine-tune each encoder, too, beside its twin from scratch.
    device : torch.device, optional
        Default: the CPU.
    progress : callable
        Told what is being done.

    Raises
    ------
    ConfigError
        If the groups cannot be compared, or the store cannot serve the task.
    TrainingError
        If a training fails.
    """
    device = device or torch.device("cpu")
    opened = TokenStore(store)
    contestants = plan_comparison(
        opened, groups, objectives, read_recipe(recipe), overrides=overrides, steps=steps,
        seconds=seconds,
    )  # fmt: skip
    require_served(opened, task, groups[0], where, trains=finetuning is not None)
    trained = []
    for one in contestants:
        progress(f"training {one.name}: {_said(one)}")
        trained.append((one, _train(one, out / "trainings", device)))
    results = score_encoders(opened, task, trained, where=where, permutations=permutations,
                             device=device, progress=progress)  # fmt: skip
    if finetuning is not None:
        rows = finetuned_rows(store, task, results.units, trained, finetuning, out / "finetune",
                              where=where, device=device, progress=progress)  # fmt: skip
        results = replace(results, rows=_by_encoder((*results.rows, *rows), contestants))
    write_results(out / "scores", results)
    (scores,) = join_scores([out / "scores"])
    table = _table(scores, contestants)
    with writing("Comparison", out, then="Then run it again: finished trainings are kept."):
        write_whole(out / "compare.csv", table.to_csv(index=False))
        with house_style():
            title = f"{task.name}: {len(contestants)} encoders under one protocol"
            write_whole(out / "compare.png", png(draw_rows(scores, title)))
    return Comparison(table, _protocol(contestants, finetuning), scores)


def _by_encoder(rows: Sequence[Row], contestants: Sequence[Contestant]) -> tuple[Row, ...]:
    """Put the rows of an encoder together, after those that need none."""
    starts = [f"{one.name}, " for one in contestants]

    def place(row: Row) -> int:
        return next((i for i, start in enumerate(starts) if row.name.startswith(start)), -1)

    return tuple(sorted(rows, key=place))


def _train(one: Contestant, under: Path, device: torch.device) -> Path:
    """Train a contestant, or go on with its training."""
    folder = TrainingFolder(under / one.folder)
    resume = folder.path if folder.checkpoints() else None
    try:
        setup = Setup(folder=folder, device=device, resume=resume)
        Trainer(one.config, one.group, setup).run()
    except CheckpointError as error:
        if resume is None:
            raise
        raise CheckpointError(f"{error} Or compare in another folder with --out.") from error
    finally:
        folder.release()
    return folder.path


def _said(one: Contestant) -> str:
    seen = one.seen
    return (f"{counted(seen['steps'], 'step')} of {counted(seen['batch'], 'window')}, "
            f"{counted(seen['tokens'], 'token')}, {seen['hours']:.1f} h of data")  # fmt: skip


def _table(scores: TaskScores, contestants: Sequence[Contestant]) -> pd.DataFrame:
    seen = {
        f"{one.name}, {how}": one.seen for one in contestants for how in ("probe", "fine-tuned")
    }
    rows: list[dict[str, Any]] = []
    for row in scores.rows:
        figure = row.figure(scores.metric)
        low, high = figure["interval"] or (None, None)
        rows.append({"model": row.name, "metric": scores.metric, "mean": figure["mean"],
                     "sd": figure["sd"], "low": low, "high": high,
                     **seen.get(row.name, {})})  # fmt: skip
    return pd.DataFrame(rows)


def _protocol(contestants: Sequence[Contestant], finetuning: FinetuneConfig | None) -> list[str]:
    first = contestants[0]
    seconds = first.config.data.window * first.tr
    rows = "Rows of an encoder: linear probe of its frozen features; the same of untrained weights"
    if finetuning is not None:
        rows += (
            "; fine-tuned and trained from scratch on the task (epochs: at most "
            f"{finetuning.train.epochs}), without permuted labels"
        )
    return [
        "Equal: runs, subjects and held-out sides; optimizer steps; "
        f"windows of about {seconds:.0f} s; model, optimizer and recipe.",
        "Tokens seen are made equal by the number of windows in a batch: "
        + "; ".join(f"{one.name}: {_said(one)}" for one in contestants) + ".",
        f"{rows}.",
        *unequal(contestants),
    ]  # fmt: skip
