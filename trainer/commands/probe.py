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
@click.option("--store", required=True, help="Token store: a local path or an fsspec URL.")
@click.option("--group", help="Token group. [default: the one that was trained on]")
@click.option(
    "--training",
    "trainings",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Folder of a training, or one of its checkpoints; may be repeated.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="COLUMN",
    help="Column of the subjects' table (sex, age, ...), or task, session, site; or trial_type: "
    "what was happening, from windows of the runs' events. May be repeated.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only runs such as task=rest; may be repeated.",
)
@click.option(
    "--untrained", is_flag=True, help="Compare with encoders of the same shape, untrained."
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True,
              help="Divisions into folds; and untrained encoders.")  # fmt: skip
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--permutations", type=click.IntRange(0), default=100, show_default=True,
              help="Of the labels, between families of the same shape: what is found by chance. "
              "0 leaves it out.")  # fmt: skip
@click.option("--crops", type=click.IntRange(1), default=8, show_default=True,
              help="Evenly spread windows of each run.")  # fmt: skip
@click.option("--pool", type=click.Choice(["mean", "cells"]), default="mean", show_default=True,
              help="Features: CLS and the mean of all tokens, or that of each cell's.")  # fmt: skip
@click.option("--event-delay", type=float, default=4.0, show_default=True, metavar="SECONDS",
              help="trial_type: from an onset to its window: blood responds late.")  # fmt: skip
@click.option("--event-window", type=click.FloatRange(0, min_open=True), default=8.0,
              show_default=True, metavar="SECONDS",
              help="trial_type: length of a window, in whole tokens of the model.")  # fmt: skip
@click.option("--trial-type", "trial_types", multiple=True, metavar="NAME",
              help="trial_type: these alone; may be repeated. [default: all]")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--out", type=_PATH, default=Path("probe"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
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
    """Score linear probes on frozen encoders, by subjects and families that they have not seen.

    Features are CLS and the mean token (or that of each cell), averaged over a subject's (or a
    run's) windows; of an event, those of its own window. Figures are means over the folds. Writes
    probe.json, probe.csv, probe_folds.csv and the folds with their checksums to the output folder.
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
