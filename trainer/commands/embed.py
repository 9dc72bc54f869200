"""``fmritok embed``: the features of a frozen encoder as a table for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fmritok.quantities import counted

if TYPE_CHECKING:
    from fmritok.trainer.evaluation.features import Pool
    from fmritok.trainer.probing.embedding import Per

__all__ = ["embed"]

_PATH = click.Path(path_type=Path)


@click.command("embed")
@click.option("--from", "training", required=True, type=_PATH,
              help="Training: its folder, or one of its checkpoints; or an exported encoder: its "
              "folder, or the name of a fetched hub model.")  # fmt: skip
@click.option("--store", required=True, help="Token store: a folder or a URL.")
@click.option("--out", type=_PATH, required=True, help="Parquet file to write.")
@click.option("--per", type=click.Choice(["run", "window", "frame"]), default="run",
              show_default=True, help="Rows. run: the average over windows, the features of "
              "`fmritok probe`. frame: the frames of each patch of the model.")  # fmt: skip
@click.option("--pool", type=click.Choice(["mean", "cells"]), default="mean", show_default=True,
              help="Embedding: the mean over all tokens, or over those of each cell, and CLS (not "
              "of frames).")  # fmt: skip
@click.option("--crops", type=click.IntRange(1), default=8, show_default=True,
              help="Number of windows of each run, evenly spread; of --per run.")  # fmt: skip
@click.option("--group", metavar="NAME", help="Token group. [default: the one that was trained on]")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE",
              help="Embed only runs with this value, such as task=rest; repeatable.")  # fmt: skip
@click.option("--loader-workers", "workers", type=click.IntRange(0), default=0, show_default=True,
              help="Number of processes that read windows; 0: this process.")  # fmt: skip
@click.option("--device", default="auto", show_default=True,
              help="Device: auto, cpu, cuda, cuda:1, ...")  # fmt: skip
def embed(
    training: Path,
    store: str,
    out: Path,
    per: Per,
    pool: Pool,
    crops: int,
    group: str | None,
    where: tuple[str, ...],
    workers: int,
    device: str,
) -> None:
    """Write embeddings of runs, windows or frames to a Parquet file, with phenotypes.

    The column `embedding` is a list of numbers. pandas reads the file; the metadata `fmritok` of
    its schema has the checkpoint's checksum.
    """
    from fmritok.device import choose_device
    from fmritok.progress import Progress
    from fmritok.terminal import echo, log_to_terminal
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.probing.embedding import embed as write_embeddings

    log_to_terminal()
    try:
        with Progress("embed"):
            n_rows, width = write_embeddings(
                store, training, out, per=per, pool=pool, crops=crops, group=group, where=where,
                device=choose_device(device, error=ConfigError), workers=workers,
            )  # fmt: skip
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    echo(f"{counted(n_rows, 'row')} of {counted(width, 'feature')}, one for each {per}: {out}")
