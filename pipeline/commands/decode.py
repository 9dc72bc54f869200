"""``fmritok decode``: tokens back to volumes."""

from __future__ import annotations

from pathlib import Path

import click

from fmritok.pipeline.commands.options import group_option, store_option


@click.command()
@store_option
@group_option
@click.option("--run", "run_id", required=True, help="Run id; see `fmritok inspect`.")
@click.option("--frames", default=":", show_default=True, metavar="FIRST:END",
              help="Frames of the run.")  # fmt: skip
@click.option("--weights", metavar="FOLDER", help="Where the autoencoder lies on this machine.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="NIfTI file to write.")  # fmt: skip
def decode(
    store: str, group: str | None, run_id: str, frames: str, weights: str | None, out: Path
) -> None:
    """Decode a run's tokens to a NIfTI file on the canonical MNI grid."""
    from fmritok.pipeline.decoding import decode_run, save_volumes

    first, _, end = frames.partition(":")
    try:
        span = slice(int(first) if first else 0, int(end) if end else None)
    except ValueError as error:
        raise click.BadParameter(
            f"expected FIRST:END, got {frames!r}", param_hint="--frames"
        ) from error
    volumes, tr = decode_run(store, group, run_id, span, weights=weights)
    save_volumes(volumes, tr, out)
    click.echo(f"{len(volumes)} frames in {out}")
