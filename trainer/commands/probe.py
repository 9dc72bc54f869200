"""``fmritok probe``: what simple heads read off frozen encoders."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fmritok.trainer.commands.task_options import TaskOptions, report_results, task_options

if TYPE_CHECKING:
    from fmritok.trainer.evaluation.features import Pool
    from fmritok.trainer.probing.questions import HeadName
    from fmritok.trainer.tasks.task import Task

__all__ = ["probe"]

_PATH = click.Path(path_type=Path)


@click.command("probe")
@task_options(out="probe", one_task=False)
@click.option("--task", "names", multiple=True, metavar="NAME|FILE",
              help="Task: see `fmritok list tasks`; or a YAML file of one; "
              "repeatable.")  # fmt: skip
@click.option("--target", "targets", multiple=True, metavar="COLUMN",
              help="Label to predict without a task: a phenotype (sex, age, ...), task, session or "
              "site, or trial_type (the condition of task events); repeatable.")  # fmt: skip
@click.option("--from", "--training", "trainings", multiple=True, required=True,
              type=click.Path(path_type=Path),
              help="Training to probe: its folder, or one of its checkpoints; or an exported "
              "encoder: its folder, or the name of a fetched hub model; repeatable.")  # fmt: skip
@click.option("--head", "heads", multiple=True, default=("linear",), show_default=True,
              type=click.Choice(["linear", "logistic", "attentive", "knn"]),
              help="linear: ridge regression, or logistic regression of balanced classes. logistic "
              "and attentive: by Brainmarks' protocol. knn: nearest neighbours. "
              "Repeatable.")  # fmt: skip
@click.option("--untrained", is_flag=True, help="Probe untrained encoders of the same shape, too.")
@click.option("--pool", type=click.Choice(["mean", "cells"]), default="mean", show_default=True,
              help="Features: CLS and the mean over all tokens, or the mean over each cell. "
              "attentive takes all tokens.")  # fmt: skip
@click.option("--crops", type=click.IntRange(1), default=8, show_default=True,
              help="Number of windows of each run, evenly spread.")  # fmt: skip
@click.option("--regress", default="", metavar="COLUMN,...",
              help="Confounds, such as site,motion: features are scored with them and, regressed "
              "out in each fold, without.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(0), default=100, show_default=True,
              help="Number of label permutations, for the scores of chance; 0: none. attentive has "
              "none.")  # fmt: skip
@click.option("--event-delay", type=float, metavar="SECONDS",
              help="trial_type: delay from an onset to its window, for the blood response. "
              "[default: the task's, or 4]")  # fmt: skip
@click.option("--event-window", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="trial_type: length of a window, rounded to whole tokens. [default: the "
              "task's, or 8]")  # fmt: skip
@click.option("--trial-type", "trial_types", multiple=True, metavar="NAME",
              help="--target trial_type: use only this condition; repeatable. "
              "[default: all]")  # fmt: skip
@click.option("--attentive-epochs", "epochs", type=click.IntRange(1), default=20,
              show_default=True, help="attentive: number of epochs.")  # fmt: skip
@click.option("--attentive-steps", "steps", type=click.IntRange(1), default=200,
              show_default=True, help="attentive: number of steps of an epoch.")  # fmt: skip
@click.option("--cache", type=_PATH, help="Folder that keeps features for the next probe. "
              "[default: $FMRITOK_CACHE/features, or ~/.cache/fmritok/features]")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Keep no features.")
@click.option("--loader-workers", "workers", type=click.IntRange(0), default=0, show_default=True,
              help="Number of processes that read windows; 0: this process.")  # fmt: skip
@click.option("--device", default="auto", show_default=True,
              help="Device: auto, cpu, cuda, cuda:1, ...")  # fmt: skip
def probe(
    options: TaskOptions,
    names: tuple[str, ...],
    targets: tuple[str, ...],
    trainings: tuple[Path, ...],
    heads: tuple[HeadName, ...],
    untrained: bool,
    pool: Pool,
    crops: int,
    regress: str,
    permutations: int,
    event_delay: float | None,
    event_window: float | None,
    trial_types: tuple[str, ...],
    epochs: int,
    steps: int,
    cache: Path | None,
    no_cache: bool,
    workers: int,
    device: str,
) -> None:
    """Score heads on the features of frozen encoders, on held-out subjects and families.

    Features of a subject are averaged over the windows of its runs; an event has one window.
    Writes predictions.csv, scores.csv, scores.json, splits.json and the resolved task.yaml. With
    several tasks, each has a folder of its own.
    """
    from fmritok.device import choose_device
    from fmritok.progress import Progress
    from fmritok.terminal import log_to_terminal
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.probing.attentive import AttentiveOptions
    from fmritok.trainer.probing.cache import FeatureCache, default_folder
    from fmritok.trainer.probing.questions import ProbeOptions
    from fmritok.trainer.probing.rows import probe as score_probes

    log_to_terminal()
    if not names and not targets:
        raise click.UsageError("Missing option '--task' or '--target'.")
    try:
        tasks = [_with_events(task, event_delay, event_window)
                 for task in _tasks(options, names, targets, trainings, trial_types)]  # fmt: skip
        how = ProbeOptions(
            heads=tuple(dict.fromkeys(heads)), pool=pool, untrained=untrained, crops=crops,
            regress=tuple(name.strip() for name in regress.split(",") if name.strip()),
            permutations=permutations,
            attentive=AttentiveOptions(epochs=epochs, steps=steps),
        )  # fmt: skip
        with ExitStack() as stack:
            folder = cache or default_folder()
            if no_cache:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(Progress("probe"))
            results = score_probes(
                options.store, tasks, trainings, how, cache=FeatureCache(folder),
                device=choose_device(device, error=ConfigError), group=options.group,
                where=options.where, split=options.division, workers=workers,
            )  # fmt: skip
        report_results(results, options)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _tasks(
    options: TaskOptions,
    names: tuple[str, ...],
    targets: tuple[str, ...],
    trainings: tuple[Path, ...],
    trial_types: tuple[str, ...],
) -> list[Task]:
    """Read the tasks, and make those of columns; two of one name are refused."""
    from fmritok.errors import expected
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.record.finding import find_trained
    from fmritok.trainer.tasks.adhoc import task_of_column
    from fmritok.trainer.tasks.task import read_task

    found = [read_task(name) for name in dict.fromkeys(names)]
    if targets:
        store = TokenStore(options.store)
        group = options.group or find_trained(trainings[0]).group_name
        runs = store.group(group).runs
        found += [
            task_of_column(target, runs, store.phenotypes, store.events, where=options.where,
                           trial_types=trial_types)
            for target in dict.fromkeys(targets)
        ]  # fmt: skip
    for task in found:
        if sum(other.name == task.name for other in found) > 1:
            raise ConfigError(
                expected("Tasks", f"named {task.name}", "tasks of different names", "two",
                         "Change the name in the YAML of one.")
            )  # fmt: skip
    return [options.divided(task) for task in found]


def _with_events(task: Task, delay: float | None, window: float | None) -> Task:
    delay = task.delay if delay is None else delay
    return replace(task, delay=delay, window=task.window if window is None else window)
