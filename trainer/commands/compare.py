"""``fmritok compare``: token groups and objectives under one protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

__all__ = ["compare"]


@click.command("compare")
@click.option("--task", "name", required=True, metavar="NAME|FILE",
              help="Task: see `fmritok list tasks`; or a YAML file of one.")  # fmt: skip
@click.option("--store", required=True, help="Token store: a folder or a URL.")
@click.option("--group", "groups", multiple=True, required=True, metavar="NAME",
              help="Token group to compare; repeatable.")  # fmt: skip
@click.option("--objective", "objectives", multiple=True, default=("mtm",), show_default=True,
              help="Objective to train every group with; repeatable.")  # fmt: skip
@click.option("--recipe", default="tiny", show_default=True, metavar="NAME|FILE",
              help="Recipe of all trainings.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="SECTION.OPTION=VALUE",
              help="Change an option of the recipe; repeatable.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps. [default: the recipe's]")
@click.option("--seconds", type=click.FloatRange(0, min_open=True),
              help="Length of a window. [default: the recipe's, at the shortest TR]")  # fmt: skip
@click.option("--where", multiple=True, metavar="COLUMN=VALUE",
              help="Score only runs with this value, instead of what the task says of the column; "
              "repeatable.")  # fmt: skip
@click.option("--folds", type=click.IntRange(2), help="Number of folds. [default: the task's]")
@click.option("--seeds", type=click.IntRange(1), help="Number of repetitions, each with its own "
              "folds. [default: the task's]")  # fmt: skip
@click.option("--finetune", "finetuning", metavar="NAME|FILE",
              help="Fine-tune each encoder, too, beside its twin from scratch, by this recipe: see "
              "`fmritok list finetune-recipes`.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(0), default=100, show_default=True,
              help="Number of label permutations, for the scores of chance; 0: none.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, ...")
@click.option("--out", type=click.Path(path_type=Path), default=Path("compare"), show_default=True,
              help="Folder to write to. Finished trainings in it are used again.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def compare(
    name: str,
    store: str,
    groups: tuple[str, ...],
    objectives: tuple[str, ...],
    recipe: str,
    overrides: tuple[str, ...],
    steps: int | None,
    seconds: float | None,
    where: tuple[str, ...],
    folds: int | None,
    seeds: int | None,
    finetuning: str | None,
    permutations: int,
    device: str,
    out: Path,
    as_json: bool,
) -> None:
    """Pretrain on each token group under one protocol, and score all on one task.

    Subjects, steps, seconds of a window and tokens seen are equal. Every encoder stands beside an
    untrained one of the same shape; connectivity and the dummy stand on top.
    """
    import json

    from fmritok.device import choose_device
    from fmritok.terminal import echo, log_to_terminal, new_console, remark
    from fmritok.trainer.comparison.compare import compare as run
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.finetuning.config import finetune_config
    from fmritok.trainer.tasks.task import SplitRule, read_task

    log_to_terminal()
    try:
        task = read_task(name)
        rule = SplitRule(task.split.by, folds or task.split.folds, seeds or task.split.seeds)
        made = run(
            store, replace(task, split=rule), list(dict.fromkeys(groups)), out=out,
            objectives=list(dict.fromkeys(objectives)), recipe=recipe, overrides=overrides,
            steps=steps, seconds=seconds, where=where, permutations=permutations,
            finetuning=finetune_config(finetuning) if finetuning else None,
            device=choose_device(device, error=ConfigError), progress=remark,
        )  # fmt: skip
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        rows = json.loads(made.table.to_json(orient="records"))
        click.echo(json.dumps({"protocol": made.protocol, "rows": rows}, indent=1))
        return
    from rich.table import Table

    shown = Table(
        "model",
        made.scores.metric.replace("_", " "),
        "95 % interval",
        "steps",
        "tokens seen",
        "hours of data",
    )
    for row in made.table.astype(object).where(made.table.notna(), None).to_dict("records"):
        span = "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        trained = row.get("steps") is not None
        shown.add_row(
            row["model"], f"{row['mean']:.3f}", span,
            *([f"{row['steps']:,.0f}", f"{row['tokens']:,.0f}", f"{row['hours']:.1f}"]
              if trained else ["-"] * 3),
        )  # fmt: skip
    new_console(width=140).print(shown)
    for line in made.protocol:
        echo(line)
    echo(f"Table, figure, trainings and scores: {out}")
