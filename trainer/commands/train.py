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
    """The options of the command, under their names; what they mean is said there."""

    stores: tuple[str, ...]
    weights: tuple[float, ...]
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
        """All ``--set``, those that have an option of their own at the end."""
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
    help="Token store: a local path or an fsspec URL; several are mixed.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=float,
    help="Share of each --store in an epoch, in their order. [default: by its runs]",
)
@click.option("--group", help="Token group; needed if the store has several.")
@click.option("--out", type=_PATH, help="Folder of the training. [default: trainings/RECIPE-TIME]")
@click.option("--recipe", help="Name or YAML file. [default: tablet with a GPU, else tiny]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Change an option of the recipe; may be repeated.",
)
@click.option("--steps", type=click.IntRange(1), help="Short for --set train.steps=N.")
@click.option("--seed", type=click.IntRange(0), help="Short for --set train.seed=N.")
@click.option("--resume", type=_PATH, help="Go on with this training, exactly.")
@click.option("--init-from", type=_PATH, help="Start a new training from these weights.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Loader processes. [default: one less than the cores, at most 4]",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--shard",
    is_flag=True,
    help="Divide the model among the processes of torchrun (FSDP), instead of a copy in each.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the checked configuration as YAML, which is a recipe, and do not train.",
)
@click.option(
    "--wandb",
    metavar="[PROJECT]",
    is_flag=False,
    flag_value="fmritok",
    help="Follow the training in Weights & Biases, too. [default project: fmritok]",
)
def train(**options: Any) -> None:
    """Pretrain a Transformer on a token store, without labels.

    Only --store is needed. --set objective.name=NAME chooses masked tokens (mtm), a masked
    autoencoder (mae) or self-distillation (distill). Under torchrun, all processes train one
    model. The folder of the training gets checkpoints, metrics.jsonl, TensorBoard files, the
    configuration and a picture of the losses. One training at a time uses it. If the disk refuses
    checkpoints or metrics.jsonl, training stops, and the last checkpoint stays usable. Without
    TensorBoard, W&B or the picture it continues with a warning.

    --resume takes a training's folder, or one of its checkpoints. How often it logs, validates and
    saves may be changed (train.log_every, validate_every, checkpoint_every, keep_checkpoints), and
    so may --out, --workers and the number of processes; nothing else may, and the store must hold
    the tokens that were trained on. A training that is finished says so.
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
