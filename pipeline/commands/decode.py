"""``fmritok decode``: tokens back to volumes, flat maps, surfaces or parcels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from fmritok.pipeline.commands.options import group_option, store_option
from fmritok.progress import Progress
from fmritok.terminal import echo

__all__ = ["decode"]


class FrameRange(click.ParamType):
    """One frame (``5``) or consecutive frames (``5:9``, ``5:``, ``:9``) as a slice."""

    name = "frames"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> slice:
        """Return the slice; frames count from 0, and the end is not included."""
        if isinstance(value, slice):
            return value
        found = re.fullmatch(r"(\d*)(:?)(\d*)", str(value).strip(), re.ASCII)
        if found is None or not (found[1] or found[2]):
            self.fail("expected one frame (5) or consecutive frames (5:9, 5: or :9), counted "
                      f"from 0, got {value!r}.", param, ctx)  # fmt: skip
        first = int(found[1] or 0)
        if not found[2]:
            return slice(first, first + 1)
        end = int(found[3]) if found[3] else None
        if end is not None and end <= first:
            self.fail(f"expected an end after the first frame, got {value!r}: "
                      "the end is not included.", param, ctx)  # fmt: skip
        return slice(first, end)


@click.command()
@store_option
@group_option
@click.option("--run", "run_id", required=True, metavar="RUN_ID",
              help="The run to decode; `fmritok inspect --runs` lists them.")  # fmt: skip
@click.option("--frames", type=FrameRange(), default=":", show_default="all", metavar="FRAMES",
              help="One frame (5) or consecutive frames (5:9, 5: or :9), counted from 0; "
              "the end is not included.")  # fmt: skip
@click.option("--weights", metavar="FOLDER_OR_HUB_ID",
              help="vae: the autoencoder, if it was moved since the store was written.",
              show_default="as the store says")  # fmt: skip
@click.option("--template", metavar="PATH",
              help="flatmap: the template, if it was moved since the store was written.",
              show_default="as the store says")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="File to write: .nii.gz (vae), .png or .func.gii (flatmap), .tsv (network).",
              )  # fmt: skip
def decode(
    store: str,
    group: str | None,
    run_id: str,
    frames: slice,
    weights: str | None,
    template: str | None,
    out: Path,
) -> None:
    """Decode the tokens of a run into volumes, flat maps, surface data or a table."""
    from fmritok.pipeline.tokenization.decoding import decode_to_file

    given = {"weights": weights, "template": template}
    overrides = {name: value for name, value in given.items() if value}
    with Progress("decode"):
        paths = decode_to_file(store, group, run_id, frames, out, overrides=overrides)
    for path in paths:
        echo(f"{path}")
