"""``fmritok probe``: what a linear model reads off a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fmritok.trainer.evaluation.features import Pool

__all__ = ["probe"]

_PATH = click.Path(path_type=Path)


@click.command("probe")
@click.option("--store", required=True, help="Token store: a folder or a URL.")
@click.option("--group", metavar="NAME", help="Token group. [default: the one that was trained on]")
@click.option(
    "--training",
    "trainings",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Training to score: its folder, or one of its checkpoints; repeatable.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="COLUMN",
    help="Label to predict: a phenotype (sex, age, ...), task, session or site, or trial_type (the "
    "condition of task events); repeatable.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Use only runs with this value, such as task=rest; repeatable.",
)
@click.option("--untrained", is_flag=True, help="Score untrained encoders of the same shape, too.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of repetitions, each with its own folds and untrained encoder.",
)
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True,
              help="Number of cross-validation folds.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(0), default=100, show_default=True,
              help="Number of label permutations, for the scores of chance; 0: none. Labels are "
              "permuted between families of the same shape.")  # fmt: skip
@click.option("--crops", type=click.IntRange(1), default=8, show_default=True,
              help="Number of windows of each run, evenly spread.")  # fmt: skip
@click.option(
    "--pool",
    type=click.Choice(["mean", "cells"]),
    default="mean",
    show_default=True,
    help="Features: CLS and the mean over all tokens, or the mean over each cell.",
)
@click.option(
    "--event-delay",
    type=float,
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    help="trial_type: delay from an onset to its window, for the blood response.",
)
@click.option("--event-window", type=click.FloatRange(0, min_open=True), default=8.0,
              show_default=True, metavar="SECONDS",
              help="trial_type: length of a window, rounded to whole tokens.")  # fmt: skip
@click.option("--trial-type", "trial_types", multiple=True, metavar="NAME",
              help="trial_type: use only this condition; repeatable. [default: all]")  # fmt: skip
@click.option("--loader-workers", "workers", type=click.IntRange(0), default=0, show_default=True,
              help="Number of processes that read windows; 0: this process.")  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, ..."
)
@click.option("--out", type=_PATH, default=Path("probe"), show_default=True,
              help="Folder to write to.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def probe(
    store: str,
    group: str | None,
    trainings: tuple[Path, ...],
    targets: tuple[str, ...],
    where: tuple[str, ...],
    untrained: bool,
    seeds: int,
    folds: int,
    permutations: int,
    crops: int,
    pool: Pool,
    event_delay: float,
    event_window: float,
    trial_types: tuple[str, ...],
    workers: int,
    device: str,
    out: Path,
    as_json: bool,
) -> None:
    """Score linear probes of frozen encoders on held-out subjects and families.

    Features are CLS and the mean token (or the mean token of each cell), averaged over the windows
    of a subject or run; an event has one window. Scores are means over the folds. The output folder
    gets probe.json, probe.csv, probe_folds.csv and the folds with their checksums.
    """
    import json

    from fmritok.device import choose_device
    from fmritok.progress import Progress
    from fmritok.terminal import echo, log_to_terminal, new_console
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.evaluation.probing import EventOptions, probe_trainings
    from fmritok.trainer.evaluation.scores import few_units, scores_table, write_scores

    log_to_terminal()
    try:
        with Progress("probe"):
            rows = probe_trainings(
                store, group, trainings, targets, untrained=untrained, seeds=range(seeds),
                folds=folds, crops=crops, workers=workers,
                device=choose_device(device, error=ConfigError), where=where, pool=pool,
                events=EventOptions(event_delay, event_window, trial_types),
                permutations=permutations,
            )  # fmt: skip
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    summary = write_scores(out, rows)
    warning = few_units(summary)
    if warning is not None:
        echo(f"Warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
    else:
        console = new_console()
        if not console.is_terminal:  # a file: nothing to wrap at
            console = new_console(width=160)
        console.print(scores_table(summary))
        echo(f"Scores and folds: {out}")
