"""``fmritok fetch``: downloads. No other command needs the network."""

from __future__ import annotations

from pathlib import Path

import click

from fmritok.progress import Progress
from fmritok.terminal import echo
from fmritok.usage import CommandGroup

_FOLDER = click.Path(path_type=Path, file_okay=False)
_out = click.option("--out", required=True, type=_FOLDER, help="Folder to write to.")
_from = click.option("--from", "source", metavar="FOLDER",
                     type=click.Path(path_type=Path, file_okay=False, exists=True),
                     help="Folder with the files, if they were downloaded before.")  # fmt: skip


@click.group(cls=CommandGroup)
def fetch() -> None:
    """Download weights, an atlas, a template or sample data; all else works offline."""


@fetch.command()
@click.argument("hub_id", required=False)
@click.option(
    "--revision", metavar="COMMIT", help="Commit, tag or branch to download; default: the newest."
)
def weights(hub_id: str | None, revision: str | None) -> None:
    """Download an image autoencoder from the Hub (default: the DC-AE f32c32 of TABLeT)."""
    from fmritok.tokenizers.vae.weights import DEFAULT_HUB_ID, fetch_weights

    with Progress("fetch"):
        found = fetch_weights(hub_id or DEFAULT_HUB_ID, revision)
    echo(f"{found.id} at {found.revision}\n{found.folder}\nsha256 {found.sha256}")


@fetch.command()
@_out
@_from
@click.option("--cerebellum", required=True, metavar="FILE",
              type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Buckner's label image of 7 networks, from the page of FreeSurfer.")  # fmt: skip
def atlas(out: Path, source: Path | None, cerebellum: Path) -> None:
    """Download the atlas of Brain-Semantoks: Schaefer 400, Tian S3, Buckner 7."""
    from fmritok.pipeline.resources.fetching import fetch_atlas

    with Progress("fetch"):
        path = fetch_atlas(out, cerebellum, source)
    echo(f"--set network.atlas={path}")


@fetch.command()
@_out
@_from
def template(out: Path, source: Path | None) -> None:
    """Download the flat maps of fs_LR 32k, for CIFTI data."""
    from fmritok.pipeline.resources.fetching import fetch_template

    with Progress("fetch"):
        path = fetch_template(out, source)
    echo(f"--set flatmap.template={path}")


@fetch.command()
@click.argument("name", type=click.Choice(["adhd200-sample"]))
@_out
def cohort(name: str, out: Path) -> None:
    """Download sample data: 40 subjects of ADHD-200, as nilearn distributes them."""
    from fmritok.pipeline.resources.fetching import fetch_adhd200_sample

    with Progress("fetch"):
        root = fetch_adhd200_sample(out)
    echo(f"--dataset adhd200 --root {root}")
