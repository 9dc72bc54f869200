"""``fmritok train``: train a model on a token store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

__all__ = ["TrainOptions", "train"]


_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of the command; their help says what they mean."""

    stores: tuple[str, ...]
    mix: tuple[float, ...]
    group: str | None
    out: Path | None
    recipe: str | None
    overrides: tuple[str, ...]
    steps: int | None
    seed: int | None
    resume: Path | None
    init_from: Path | None
    workers: int | None
    device: str
    shard: bool
    wandb: str | None
    print_config: bool

    @property
    def assignments(self) -> tuple[str, ...]:
        """All ``--set``; at the end those of ``--steps`` and ``--seed``."""
        shorts = []
        if self.steps is not None:
            shorts += [f"train.steps={self.steps}", "train.epochs=null"]
        if self.seed is not None:
            shorts += [f"train.seed={self.seed}"]
        return (*self.overrides, *shorts)


@click.command("train")
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="PATH_OR_URL",
    help="Token store: a folder or a URL. Repeat it to train on several.",
)
@click.option(
    "--mix",
    multiple=True,
    type=float,
    help="Share of each --store in an epoch: a number for each, in the same order. "
    "[default: by number of runs]",
)
@click.option("--group", metavar="NAME", help="Token group. It is needed if the store has several.")
@click.option("--out", type=_PATH, help="Folder of the training. [default: trainings/RECIPE-TIME]")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Name of a recipe (`fmritok list recipes`) or YAML file. [default: tablet with a GPU, "
    "else tiny]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.OPTION=VALUE",
    help="Change an option of the recipe, such as optim.lr=1e-3; repeatable.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Number of optimizer steps; short for --set train.steps=N.",
)
@click.option("--seed", type=click.IntRange(0), help="Random seed; short for --set train.seed=N.")
@click.option(
    "--resume",
    type=_PATH,
    help="Continue a training exactly: its folder, or one of its checkpoints.",
)
@click.option(
    "--init-from",
    type=_PATH,
    help="Start a new training from the weights of another: its folder, or one of its checkpoints; "
    "or from an exported encoder: its folder, or the name of a fetched hub model.",
)
@click.option(
    "--loader-workers",
    "workers",
    type=click.IntRange(0),
    help="Number of processes that read windows; 0: this process. [default: number of cores "
    "minus 1, at most 4]",
)
@click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, ..."
)
@click.option(
    "--shard",
    is_flag=True,
    help="Shard the model over the processes of torchrun (FSDP). [default: a copy in each]",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the checked configuration as YAML and stop. What is printed is a recipe.",
)
@click.option(
    "--wandb",
    metavar="[PROJECT]",
    is_flag=False,
    flag_value="fmritok",
    help="Log to Weights & Biases, too. [default project: fmritok]",
)
def train(**options: Any) -> None:
    """Pretrain a Transformer on a token store, without labels.

    Only --store is needed. --set objective.name=NAME chooses the objective: masked tokens (mtm),
    masked autoencoder (mae) or self-distillation (distill). Under torchrun, all processes train
    one model.

    The folder of the training gets checkpoints, metrics.jsonl, TensorBoard files, the configuration
    and a picture of the losses. A folder belongs to one training at a time. If checkpoints or
    metrics.jsonl cannot be written, training stops; the last checkpoint stays usable. If
    TensorBoard, W&B or the picture fails, training continues with a warning.

    A resumed training may change train.log_every, validate_every, checkpoint_every and
    keep_checkpoints, --out, --device, --loader-workers and the number of processes. All else must
    be the same, and the store must have the same tokens.
    """
    from fmritok.trainer.errors import ConfigError, OtherProcessError

    chosen = TrainOptions(**options)
    if chosen.resume and chosen.init_from:
        raise click.UsageError(
            "--resume goes on with a training exactly where it was; --init-from starts a new one "
            "from weights alone. Give one of them."
        )
    if not chosen.stores and not chosen.print_config:
        raise click.UsageError("Missing option '--store'.")
    # Read once, when torch is loaded. Threads that spin while they wait take the cores away from
    # the loader and from other jobs: measured five times slower on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fmritok.trainer.commands.run_training import print_config, run_training

    try:
        if chosen.print_config:
            print_config(chosen)
        else:
            run_training(chosen)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except OtherProcessError as error:  # the first process says what it is, once
        raise click.exceptions.Exit(1) from error
