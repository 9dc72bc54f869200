"""Run a training for the command: device, processes, folder, configuration, stores, report."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path

import click
import torch

from fmritok.device import choose_device, count_cores
from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.quantities import counted
from fmritok.terminal import echo, log_to_terminal, new_console
from fmritok.trainer.commands.train import TrainOptions
from fmritok.trainer.config import Config
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.parallel.distributed import Ranks
from fmritok.trainer.recipe import Tree, build_config, override, read_recipe, to_yaml
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.record.finding import find_checkpoint, training_of
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.record.resuming import hold_and_open
from fmritok.trainer.record.tracking import import_wandb
from fmritok.trainer.training.display import figures_table
from fmritok.trainer.training.loop import Trainer
from fmritok.trainer.training.progress import Summary
from fmritok.trainer.training.setup import Setup
from fmritok.trainer.training.verdict import verdict

__all__ = ["print_config", "run_training"]

_logger = logging.getLogger(__name__)


def print_config(options: TrainOptions) -> None:
    """Print the whole configuration of a training with these options.

    Raises
    ------
    ConfigError
        If an option is wrong.
    CheckpointError
        If there is no checkpoint to resume from.
    """
    log_to_terminal()
    checkpoint = find_checkpoint(options.resume) if options.resume else None
    recipe = options.recipe
    if recipe is None and checkpoint is None:
        recipe = _default_recipe(choose_device(options.device, error=ConfigError))
    click.echo(to_yaml(_configuration(options, recipe, checkpoint)), nl=False)


def run_training(options: TrainOptions) -> None:
    """Train, and print the result.

    Raises
    ------
    ConfigError
        If an option is wrong.
    FmritokError
        See :class:`fmritok.trainer.training.loop.Trainer`.
    """
    log_to_terminal()
    device = choose_device(options.device, error=ConfigError)
    if options.wandb is not None:
        import_wandb()  # before anything is written
    ranks = Ranks.join(device.type)
    if options.shard and ranks.size == 1:
        raise ConfigError(
            expected("Option", "--shard", "several processes to divide the model among", "one",
                     "Start with `torchrun --nproc-per-node=N -m fmritok.cli train ...`.")
        )  # fmt: skip
    if not ranks.is_first:
        logging.getLogger().setLevel(logging.ERROR)
    folder: TrainingFolder | None = None
    try:
        checkpoint, recipe = None, options.recipe
        if options.resume is not None:
            out = options.out
            folder = TrainingFolder(out) if out is not None else training_of(options.resume)
            checkpoint = ranks.of_first(partial(hold_and_open, options.resume, folder))
            _logger.info("Resuming %s", checkpoint.folder)
        else:
            recipe = recipe or _default_recipe(device)
            name = f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
            folder = TrainingFolder(ranks.agreed(options.out or Path("trainings") / name))
        config = _configuration(options, recipe, checkpoint)
        group_name = options.group
        if checkpoint is not None:
            group_name = group_name or checkpoint.state["group"]["name"]
        groups = [TokenStore(store).group(group_name) for store in options.stores]
        workers = options.workers
        if workers is None:
            shared = all(each.location.is_shared for each in groups)
            workers = min(4, count_cores() - 1) if shared else 0
        setup = Setup(
            folder=folder, device=device, workers=workers, ranks=ranks, shard=options.shard,
            resume=checkpoint, init_from=options.init_from, wandb=options.wandb,
        )  # fmt: skip
        trainer = Trainer(config, _one_group(groups, options.mix), setup)
        _logger.info(
            "Training on %s, validating on %d: %s; device %s, loader workers: %d",
            counted(len(trainer.index), "run"), len(trainer.validation_index), folder.path, device,
            workers,
        )  # fmt: skip
        summary = trainer.run()
    finally:
        if folder is not None:
            folder.release()
        ranks.leave()
    if ranks.is_first:
        _report(summary, trainer.folder)


def _default_recipe(device: torch.device) -> str:
    recipe, why = ("tablet", "a GPU") if device.type == "cuda" else (
        "tiny", f"the {device.type} (a small model)"
    )  # fmt: skip
    _logger.info("Recipe %s, because training runs on %s; choose another with --recipe",
                 recipe, why)  # fmt: skip
    return recipe


def _configuration(
    options: TrainOptions, recipe: str | None, checkpoint: Checkpoint | None
) -> Config:
    """Read the recipe, or the configuration of the checkpoint without one, and apply --set."""
    if recipe is not None:
        tree: Tree = read_recipe(recipe)
    elif checkpoint is not None:
        tree = asdict(checkpoint.config)
    else:
        tree = {}
    return build_config(override(tree, options.assignments))


def _one_group(groups: list[TokenGroup], weights: tuple[float, ...]) -> TokenGroup | MixedGroup:
    if len(groups) > 1 or weights:
        return MixedGroup(groups, weights or None)
    return groups[0]


def _report(summary: Summary, folder: TrainingFolder) -> None:
    console = new_console()
    side = "held-out subjects" if summary.validated else "TRAINING windows (no validation)"
    console.print(f"Step {summary.step}, on {side}:", soft_wrap=True, highlight=False)
    if summary.figures:
        console.print(figures_table(summary.figures, summary.shown))
    if summary.rate is None:
        echo("The training was finished before: nothing was left to do.")
    elif summary.rate.tokens_per_s:  # of all steps but the first
        echo(f"{summary.rate.tokens_per_s:,.0f} tokens/s")
    said = verdict(read_metrics(folder.path), summary.shown)
    if said is not None:
        echo(said)
    echo(f"Checkpoint: {summary.checkpoint}")
    if summary.picture is not None:
        echo(f"Loss curve: {summary.picture}")
