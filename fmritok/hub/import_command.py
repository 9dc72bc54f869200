"""``fmritok import``: weights that others released, as a folder that fmritok loads."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["import_released"]

_PATH = click.Path(path_type=Path)


@click.command("import")
@click.argument("method", type=click.Choice(["tablet", "cortexmae", "semantoks"]))
@click.argument("weights", type=_PATH)
@click.option("--out", required=True, type=_PATH,
              help="Folder to write: new, empty, or an earlier import.")  # fmt: skip
@click.option("--set", "options", multiple=True, metavar="TOKENIZER.OPTION=VALUE",
              help="Option of the tokenizer whose tokens the encoder will read, such as "
              "flatmap.template=FOLDER; repeatable.")  # fmt: skip
@click.option("--settings", type=_PATH, metavar="FILE",
              help="Settings of the model, JSON or YAML. [default: config.json beside the "
              "weights, or the checkpoint's own]")  # fmt: skip
@click.option("--figures", type=_PATH, metavar="FOLDER",
              help="Inputs and outputs of the published code (inputs.npz, outputs.npz), which the "
              "encoder has to repeat within 1e-5.")  # fmt: skip
@click.option("--license", metavar="ID",
              help="Licence of the weights. [default: that of the model card beside them, or the "
              "one that their authors state]")  # fmt: skip
def import_released(
    method: str,
    weights: Path,
    out: Path,
    options: tuple[str, ...],
    settings: Path | None,
    figures: Path | None,
    license: str | None,
) -> None:
    """Convert published WEIGHTS to a folder like that of `fmritok export`.

    WEIGHTS is a file (safetensors, or a checkpoint of torch) or a folder with one file. A hub model
    is downloaded with `fmritok fetch model ID`, which prints its folder. Every tensor is checked;
    checkpoints are read by torch's weights-only loader.

    The encoder reads tokens of one kind: tablet those of vae (--set vae.weights=ID), cortexmae
    those of flatmap (--set flatmap.template=FOLDER), semantoks those of network (--set
    network.atlas=FILE). The licence of the weights is printed and kept.
    """
    from fmritok.hub.tokens import tokens_of_method
    from fmritok.terminal import echo, log_to_terminal
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.published.importing import import_weights

    log_to_terminal()
    try:
        model = import_weights(
            method, weights, out, tokens_of_method(method, options), settings=settings,
            figures=figures, license=license,
        )  # fmt: skip
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    difference = model.facts["origin"]["difference"]
    proof = f"equal within {difference:.1e}" if difference is not None else "not compared"
    echo(f"{out}\nlicence {model.license or 'none stated'}\nstored figures: {proof}")
