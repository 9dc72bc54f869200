"""``fmritok export``: the encoder of a training as a folder for others."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["export"]

_PATH = click.Path(path_type=Path)


@click.command("export")
@click.argument("training", type=_PATH)
@click.option("--out", required=True, type=_PATH,
              help="Folder to write: new, empty, or an earlier export.")  # fmt: skip
@click.option("--license", metavar="ID",
              help="Licence of the weights by its identifier on the Hugging Face Hub, such as "
              "cc-by-4.0. Without one, push_to_hub refuses the folder.")  # fmt: skip
def export(training: Path, out: Path, license: str | None) -> None:
    """Write the encoder of TRAINING to a folder that needs neither its store nor its training.

    TRAINING is the folder of a training, one of its checkpoints, or an exported folder. The new
    folder has the weights of the encoder, the recipe, the settings and layout of the tokens, and a
    model card with counts of the cohorts and the last losses. It has no ids of participants.
    `load_encoder`, embed, probe, finetune and `train --init-from` take it in place of a training.
    """
    from fmritok.terminal import echo, log_to_terminal
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.pretrained.exporting import export as write

    log_to_terminal()
    try:
        model = write(training, out, license=license)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    echo(f"{out}\nsha256 of the weights {model.sha256()}")
    if model.license is None:
        echo("No licence is stated: give --license before you pass it on.")
