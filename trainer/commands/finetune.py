"""``fmritok finetune``: train an encoder on a task, and its twin from scratch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fmritok.trainer.commands.task_options import TaskOptions, report_results, task_options

if TYPE_CHECKING:
    from fmritok.trainer.finetuning.config import Trained

__all__ = ["finetune"]


@click.command("finetune")
@task_options(out="finetune")
@click.option("--from", "source", required=True, metavar="TRAINING|none",
              help="Training whose encoder is fine-tuned: its folder, or one of its checkpoints; "
              "or an exported encoder: its folder, or the name of a fetched hub model; "
              "none: from scratch.")  # fmt: skip
@click.option("--as", "shape", metavar="TRAINING|RECIPE",
              help="With --from none: the training, or the recipe of `fmritok train`, whose shape "
              "is taken.")  # fmt: skip
@click.option("--recipe", default="default", show_default=True, metavar="NAME|FILE",
              help="Protocol: see `fmritok list finetune-recipes`; or a YAML file.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="SECTION.OPTION=VALUE",
              help="Change an option of the recipe, such as optim.lr=1e-4; "
              "repeatable.")  # fmt: skip
@click.option("--weights", type=click.Choice(["all", "head", "last", "lora"]),
              help="Trained weights: all, the head, the head and the last layers, or the head and "
              "low-rank additions (needs peft). Short for --set weights.train=NAME. "
              "[default: the recipe's]")  # fmt: skip
@click.option("--twin/--no-twin", default=True, show_default=True,
              help="Train from scratch, too: same shape, folds and seeds, all "
              "weights.")  # fmt: skip
@click.option("--control", is_flag=True,
              help="Train on permuted labels, too: what is scored then is chance.")  # fmt: skip
@click.option("--keep-weights", is_flag=True,
              help="Write the weights of each fold's best epoch (safetensors).")  # fmt: skip
@click.option("--loader-workers", "workers", type=click.IntRange(0), default=0, show_default=True,
              help="Number of processes that read windows; 0: this process.")  # fmt: skip
@click.option("--device", default="auto", show_default=True,
              help="Device: auto, cpu, cuda, cuda:1, ...")  # fmt: skip
@click.option("--print-config", is_flag=True,
              help="Print the checked configuration as YAML and stop. What is printed is a "
              "recipe.")  # fmt: skip
def finetune(
    options: TaskOptions,
    source: str,
    shape: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    weights: Trained | None,
    twin: bool,
    control: bool,
    keep_weights: bool,
    workers: int,
    device: str,
    print_config: bool,
) -> None:
    """Fine-tune an encoder on a task, fold by fold, beside its twin from scratch.

    The epoch is chosen on a validation side, by the task's metric. The outputs of all windows of a
    test unit are averaged. To continue after an interruption, run the same command again. The row
    dummy is the level of chance; --control adds a row with permuted labels.

    Writes predictions.csv, scores.csv, scores.json, splits.json, task.yaml, finetune.yaml and a
    curve for each fold.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `fmritok train` does
    from fmritok.device import choose_device
    from fmritok.progress import Progress
    from fmritok.terminal import echo, log_to_terminal
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.finetuning.config import finetune_config, to_yaml
    from fmritok.trainer.finetuning.engine import Options
    from fmritok.trainer.finetuning.engine import finetune as run
    from fmritok.trainer.finetuning.verdict import verdicts

    log_to_terminal()
    assignments = [*overrides, *([f"weights.train={weights}"] if weights else [])]
    try:
        config = finetune_config(recipe, assignments)
        if print_config:
            click.echo(to_yaml(config), nl=False)
            return
        chosen = Options(
            group=options.group, where=options.where, split=options.division,
            source=None if source == "none" else Path(source), shape=shape, twin=twin,
            control=control, keep_weights=keep_weights, workers=workers,
        )  # fmt: skip
        with Progress("finetune"):
            results = run(
                options.store, options.read_task(), config, options.out, chosen,
                device=choose_device(device, error=ConfigError),
            )  # fmt: skip
        (tree,) = report_results(results, options)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if not options.json:
        for line in verdicts(tree):
            echo(line)
