"""``fmritok baseline``: what stands beside every encoder on a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fmritok.trainer.baselines.connectivity import Connectivity
    from fmritok.trainer.baselines.rows import Kind
    from fmritok.trainer.tasks.task import By

__all__ = ["baseline"]

_PATH = click.Path(path_type=Path)


@click.command("baseline")
@click.option("--task", "task_name", required=True, metavar="NAME|FILE",
              help="A task: see `fmritok list tasks`; or a YAML file of one.")  # fmt: skip
@click.option("--store", required=True, help="Token store: a local path or an fsspec URL.")
@click.option("--group", help="Token group. [default: network, or the only one]")
@click.option("--kind", "kinds", multiple=True, required=True,
              type=click.Choice(["connectivity", "tokens", "nuisance", "dummy"]),
              help="connectivity: of the parcels of `network`. tokens: mean of raw tokens. "
              "nuisance: age, sex, site and motion. dummy: the mean or the most frequent class. "
              "May be repeated.")  # fmt: skip
@click.option("--connectivity", "kind_of_connectivity", default="pearson", show_default=True,
              type=click.Choice(["pearson", "partial", "tangent"]))  # fmt: skip
@click.option("--regress", default="", metavar="COLUMN,...",
              help="Confounds, such as site,motion: features are scored with them and, regressed "
              "out in each fold, without.")  # fmt: skip
@click.option("--where", multiple=True, metavar="COLUMN=VALUE",
              help="Which runs, instead of what the task says; may be repeated.")  # fmt: skip
@click.option("--by", type=click.Choice(["family", "subject", "site", "leave-site-out"]),
              help="What is never on both sides. [default: the task's]")  # fmt: skip
@click.option("--folds", type=click.IntRange(2), help="[default: the task's]")
@click.option("--seeds", type=click.IntRange(1), help="[default: the task's]")
@click.option("--split", "split_file", type=_PATH, metavar="FILE",
              help="Given train, validation and test ids.")  # fmt: skip
@click.option("--held-out", type=_PATH, metavar="TRAINING",
              help="Test on the subjects that a training held out.")  # fmt: skip
@click.option("--pretraining", type=_PATH, metavar="TRAINING",
              help="Name the tested subjects that a training has seen.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(0), default=100, show_default=True,
              help="Of the labels, within the same folds: what is found by chance.")  # fmt: skip
@click.option("--out", type=_PATH, default=Path("baseline"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def baseline(
    task_name: str,
    store: str,
    group: str | None,
    kinds: tuple[Kind, ...],
    kind_of_connectivity: Connectivity,
    regress: str,
    where: tuple[str, ...],
    by: By | None,
    folds: int | None,
    seeds: int | None,
    split_file: Path | None,
    held_out: Path | None,
    pretraining: Path | None,
    permutations: int,
    out: Path,
    as_json: bool,
) -> None:
    """Score what needs no encoder on a task: connectivity, raw tokens, nuisance, the mean.

    Linear models, their penalty chosen within the training side of each fold. Writes
    predictions.csv, scores.csv, scores.json, splits.json and the resolved task.yaml.
    """
    import json
    from dataclasses import replace

    from fmritok.terminal import echo, log_to_terminal, new_console
    from fmritok.trainer.baselines.rows import SplitOptions
    from fmritok.trainer.baselines.rows import baseline as score_baselines
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.evaluation.results import results_table, write_results
    from fmritok.trainer.tasks.task import SplitRule, read_task

    log_to_terminal()
    try:
        task = read_task(task_name)
        rule = task.split
        rule = SplitRule(by or rule.by, folds or rule.folds, seeds or rule.seeds)
        results = score_baselines(
            store, replace(task, split=rule), list(dict.fromkeys(kinds)),
            group=group, kind_of_connectivity=kind_of_connectivity,
            regress=[name.strip() for name in regress.split(",") if name.strip()], where=where,
            split=SplitOptions(split_file, held_out, pretraining), permutations=permutations,
            progress=lambda line: echo(line, err=True),
        )  # fmt: skip
        tree = write_results(out, results)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(tree, indent=1))
        return
    console = new_console()
    if not console.is_terminal:  # a file: nothing to wrap at
        console = new_console(width=160)
    console.print(results_table(tree))
    for reason, one in tree["excluded"].items():
        echo(f"Left out: {one['count']} {tree['unit']}s, {reason}.")
    if tree.get("overlap"):
        seen = tree["overlap"]
        echo(f"{seen['seen']} of {seen['test_subjects']} tested subjects were seen by "
             f"{seen['training']}.")  # fmt: skip
    echo(f"Predictions, scores and folds: {out}")
