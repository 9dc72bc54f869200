"""``fmritok baseline``: what stands beside every encoder on a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fmritok.trainer.commands.task_options import TaskOptions, report_results, task_options

if TYPE_CHECKING:
    from fmritok.trainer.baselines.connectivity import Connectivity
    from fmritok.trainer.baselines.rows import Kind

__all__ = ["baseline"]


@click.command("baseline")
@task_options(out="baseline")
@click.option("--kind", "kinds", multiple=True, required=True,
              type=click.Choice(["connectivity", "tokens", "nuisance", "dummy"]),
              help="connectivity: of the parcels of `network`. tokens: mean of raw tokens. "
              "nuisance: age, sex, site and motion. dummy: the mean or the most frequent class. "
              "Repeatable.")  # fmt: skip
@click.option("--connectivity", "kind_of_connectivity", default="pearson", show_default=True,
              type=click.Choice(["pearson", "partial", "tangent"]),
              help="Kind of connectivity between parcels.")  # fmt: skip
@click.option("--regress", default="", metavar="COLUMN,...",
              help="Confounds, such as site,motion: features are scored with them and, regressed "
              "out in each fold, without.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(0), default=100, show_default=True,
              help="Number of label permutations, for the scores of chance; 0: none.")  # fmt: skip
def baseline(
    options: TaskOptions,
    kinds: tuple[Kind, ...],
    kind_of_connectivity: Connectivity,
    regress: str,
    permutations: int,
) -> None:
    """Score baselines without an encoder: connectivity, raw tokens, nuisance, the mean.

    Linear models, their penalty chosen within the training side of each fold. Writes
    predictions.csv, scores.csv, scores.json, splits.json and the resolved task.yaml.
    """
    from fmritok.terminal import echo, log_to_terminal
    from fmritok.trainer.baselines.rows import baseline as score_baselines
    from fmritok.trainer.errors import ConfigError

    log_to_terminal()
    try:
        results = score_baselines(
            options.store, options.read_task(), list(dict.fromkeys(kinds)),
            group=options.group, kind_of_connectivity=kind_of_connectivity,
            regress=[name.strip() for name in regress.split(",") if name.strip()],
            where=options.where, split=options.division, permutations=permutations,
            progress=lambda line: echo(line, err=True),
        )  # fmt: skip
        report_results(results, options)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
