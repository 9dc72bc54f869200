"""``fmritok train``: train a model on a token store."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["train"]


_PATH = click.Path(path_type=Path)


@click.command("train")
@click.option(
    "--store",
    "stores",
    multiple=True,
    required=True,
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
    "--wandb",
    metavar="[PROJECT]",
    is_flag=False,
    flag_value="fmritok",
    help="Follow the training in Weights & Biases, too. [default project: fmritok]",
)
def train(
    stores: tuple[str, ...],
    weights: tuple[float, ...],
    group: str | None,
    out: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    steps: int | None,
    seed: int | None,
    resume: Path | None,
    init_from: Path | None,
    workers: int | None,
    device: str,
    shard: bool,
    wandb: str | None,
) -> None:
    """Pretrain a Transformer on a token store, without labels.

    Nothing but the store is needed; objective.name chooses masked tokens (mtm), a masked
    autoencoder (mae) or self-distillation (distill). Under torchrun, one model is trained by all
    processes. Writes checkpoints, metrics.jsonl, TensorBoard files, the
    resolved configuration and a picture of the losses to the folder of the training, which
    belongs to one training at a time. If the disk refuses checkpoints or metrics.jsonl, training
    stops, and the last checkpoint stays usable; without TensorBoard, W&B or the picture it goes
    on, and says so.

    --resume takes a training's folder, or one of its checkpoints. How often it logs, validates and
    saves may be changed (train.log_every, validate_every, checkpoint_every, keep_checkpoints), and
    so may --out, --workers and the number of processes; nothing else may, and the store must hold
    the tokens that were trained on. A training that is finished says so.
    """
    from fmritok.trainer.errors import ConfigError, OtherProcessError

    if resume and init_from:
        raise click.UsageError(
            "--resume goes on with a training exactly where it was; --init-from starts a new one "
            "from weights alone. Give one of them."
        )
    shorts = []
    if steps is not None:
        shorts += [f"train.steps={steps}", "train.epochs=null"]
    if seed is not None:
        shorts += [f"train.seed={seed}"]
    try:
        _train(stores, weights, group, out, recipe, (*overrides, *shorts), resume, init_from,
               workers, device, shard, wandb)  # fmt: skip
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except OtherProcessError as error:  # the first process says what it is, once
        raise click.exceptions.Exit(1) from error


def _train(
    stores: tuple[str, ...],
    weights: tuple[float, ...],
    group_name: str | None,
    out: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    resume: Path | None,
    init_from: Path | None,
    workers: int | None,
    device_name: str,
    shard: bool,
    wandb: str | None,
) -> None:
    import logging
    import os
    from dataclasses import asdict
    from datetime import datetime
    from functools import partial

    # Read once, when torch is loaded. Threads that spin while they wait take the cores away from
    # the loader and from other jobs: measured five times slower on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fmritok.device import choose_device, count_cores
    from fmritok.errors import expected
    from fmritok.pipeline.store.reader import TokenGroup, TokenStore
    from fmritok.terminal import echo, log_to_terminal, new_console
    from fmritok.trainer.data.mixing import MixedGroup
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.recipe import build_config, override, read_recipe
    from fmritok.trainer.record.folder import TrainingFolder, training_of
    from fmritok.trainer.record.resuming import hold_and_open
    from fmritok.trainer.record.tracking import import_wandb
    from fmritok.trainer.training.display import figures_table
    from fmritok.trainer.training.distributed import Ranks
    from fmritok.trainer.training.loop import Trainer

    log_to_terminal()
    logger = logging.getLogger(__name__)

    device = choose_device(device_name, error=ConfigError)

    if wandb is not None:
        import_wandb()  # before anything is written
    ranks = Ranks.join(device.type)
    if shard and ranks.size == 1:
        raise ConfigError(
            expected("Option", "--shard", "several processes to divide the model among", "one",
                     "Start with `torchrun --nproc-per-node=N -m fmritok.cli train ...`.")
        )  # fmt: skip
    if not ranks.is_first:
        logging.getLogger().setLevel(logging.ERROR)
    folder: TrainingFolder | None = None
    try:
        checkpoint = None
        if resume is not None:
            folder = TrainingFolder(out) if out is not None else training_of(resume)
            checkpoint = ranks.of_first(partial(hold_and_open, resume, folder))
            group_name = group_name or checkpoint.state["group"]["name"]
            tree = read_recipe(recipe) if recipe else asdict(checkpoint.config)
            logger.info("Resuming %s", checkpoint.folder)
        else:
            if recipe is None:
                recipe, why = ("tablet", "a GPU") if device.type == "cuda" else (
                    "tiny", f"the {device.type} (a small model)"
                )  # fmt: skip
                logger.info("Recipe %s, because training runs on %s; choose another with --recipe",
                            recipe, why)  # fmt: skip
            tree = read_recipe(recipe)
            name = f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
            folder = TrainingFolder(ranks.agreed(out or Path("trainings") / name))
        config = build_config(override(tree, overrides))

        groups = [TokenStore(store).group(group_name) for store in stores]
        group: TokenGroup | MixedGroup = groups[0]
        if len(groups) > 1 or weights:
            group = MixedGroup(groups, weights or None)
        if workers is None:
            shared = all(each.location.is_shared for each in groups)
            workers = min(4, count_cores() - 1) if shared else 0
        trainer = Trainer(
            config,
            group,
            out=folder,
            device=device,
            workers=workers,
            resume=checkpoint,
            init_from=init_from,
            ranks=ranks,
            shard=shard,
            wandb=wandb,
        )
        logger.info(
            "Training on %d runs, validating on %d: %s; %s, %d loader workers",
            len(trainer.index), len(trainer.validation_index), folder.path, device, workers,
        )  # fmt: skip
        summary = trainer.run()
    finally:
        if folder is not None:
            folder.release()
        ranks.leave()
    if not ranks.is_first:
        return

    console = new_console()
    side = "held-out subjects" if summary.validated else "TRAINING windows (no validation)"
    console.print(f"Step {summary.step}, on {side}:", soft_wrap=True, highlight=False)
    if summary.figures:
        console.print(figures_table(summary.figures, summary.shown))
    if summary.rate is None:
        echo("The training was finished before: nothing was left to do.")
    else:
        speed, stall = summary.rate.tokens_per_s, summary.rate.stall_share
        echo(f"{speed:,.0f} tokens/s, {stall:.1%} of the time waiting for data")
    echo(f"Checkpoint: {summary.checkpoint}")
    if summary.picture is not None:
        echo(f"Loss curve: {summary.picture}")
