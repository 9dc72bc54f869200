"""``fmritok decode``: tokens back to volumes, flat maps, surfaces or parcels."""

from __future__ import annotations

from pathlib import Path

import click

from fmritok.pipeline.commands.options import group_option, store_option
from fmritok.terminal import echo


@click.command()
@store_option
@group_option
@click.option("--run", "run_id", required=True, help="Run id; see `fmritok inspect`.")
@click.option("--frames", default=":", show_default=True, metavar="FIRST:END",
              help="Frames of the run.")  # fmt: skip
@click.option("--weights", metavar="FOLDER", help="Where the autoencoder lies on this machine.")
@click.option("--template", metavar="PATH", help="Where the cortical template lies.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="File: .nii.gz (vae), .png or .func.gii (flatmap), .tsv (network).")  # fmt: skip
def decode(
    store: str,
    group: str | None,
    run_id: str,
    frames: str,
    weights: str | None,
    template: str | None,
    out: Path,
) -> None:
    """Decode a run's tokens: to a volume, pictures of the flat map, surface data or a table."""
    from fmritok.pipeline.tokenization.decoding import decode_to_file

    first, _, end = frames.partition(":")
    try:
        span = slice(int(first) if first else 0, int(end) if end else None)
    except ValueError as error:
        raise click.BadParameter(
            f"expected FIRST:END, got {frames!r}", param_hint="--frames"
        ) from error
    given = {"weights": weights, "template": template}
    overrides = {name: value for name, value in given.items() if value}
    for path in decode_to_file(store, group, run_id, span, out, overrides=overrides):
        echo(f"{path}")
