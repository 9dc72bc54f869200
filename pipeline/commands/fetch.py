"""``fmritok fetch``: download weights, atlases, templates and sample data."""

from __future__ import annotations

from pathlib import Path

import click

from fmritok.progress import Progress
from fmritok.terminal import echo
from fmritok.usage import CommandGroup

_MODEL_FILES = ("*.json", "*.safetensors", "README.md", "LICENSE*")
_FOLDER = click.Path(path_type=Path, file_okay=False)
_out = click.option("--out", required=True, type=_FOLDER, help="Folder to write to.")
_from = click.option("--from", "source", metavar="FOLDER",
                     type=click.Path(path_type=Path, file_okay=False, exists=True),
                     help="Folder with downloaded files; nothing is downloaded then.")  # fmt: skip


@click.group(cls=CommandGroup)
def fetch() -> None:
    """Download weights, an atlas, a template or sample data.

    No other command needs the network.
    """


@fetch.command()
@click.argument("hub_id", required=False)
@click.option(
    "--revision", metavar="COMMIT", help="Commit, tag or branch to download; default: the newest."
)
def weights(hub_id: str | None, revision: str | None) -> None:
    """Download an image autoencoder from the Hugging Face Hub.

    HUB_ID is its name there. [default: mit-han-lab/dc-ae-f32c32-in-1.0-diffusers, the DC-AE of
    TABLeT]
    """
    from fmritok.tokenizers.vae.weights import DEFAULT_HUB_ID, fetch_weights

    with Progress("fetch"):
        found = fetch_weights(hub_id or DEFAULT_HUB_ID, revision)
    echo(f"{found.id} at {found.revision}\n{found.folder}\nsha256 {found.sha256}")


@fetch.command()
@click.argument("hub_id")
@click.option(
    "--revision", metavar="COMMIT", help="Commit, tag or branch to download; default: the newest."
)
@click.option("--file", "more", multiple=True, metavar="PATTERN",
              help="Further files, such as checkpoints of torch: *.pth; repeatable.")  # fmt: skip
def model(hub_id: str, revision: str | None, more: tuple[str, ...]) -> None:
    """Download an encoder from the Hugging Face Hub.

    HUB_ID is its name there, such as user/model. Models of fmritok are then loaded by that name;
    weights of others need `fmritok import` first. Settings, safetensors and the model card are
    downloaded.
    """
    from fmritok.errors import FmritokError, expected
    from fmritok.hub.snapshots import HubError, fetched_snapshot

    try:
        with Progress("fetch"):
            folder = fetched_snapshot(hub_id, revision, files=(*_MODEL_FILES, *more))
    except HubError as error:
        raise FmritokError(
            expected("Hub model", hub_id, "an answer of the hub", error,
                     "Run this where there is a network, and check the name.")
        ) from error  # fmt: skip
    echo(f"{hub_id} at {folder.name}\n{folder}")


@fetch.command()
@_out
@_from
@click.option("--cerebellum", required=True, metavar="FILE",
              type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Label image of Buckner's 7 cerebellar networks, from FreeSurfer's "
              "website.")  # fmt: skip
def atlas(out: Path, source: Path | None, cerebellum: Path) -> None:
    """Download the atlas of Brain-Semantoks, 457 parcels.

    Its parcels are those of Schaefer 400, Tian S3 and Buckner 7. The result is for tokenizer
    network.
    """
    from fmritok.pipeline.resources.fetching import fetch_atlas

    with Progress("fetch"):
        path = fetch_atlas(out, cerebellum, source)
    echo(f"--set network.atlas={path}")


@fetch.command()
@_out
@_from
def template(out: Path, source: Path | None) -> None:
    """Download the flat maps of fs_LR 32k, for CIFTI data.

    The result is for tokenizer flatmap.
    """
    from fmritok.pipeline.resources.fetching import fetch_template

    with Progress("fetch"):
        path = fetch_template(out, source)
    echo(f"--set flatmap.template={path}")


@fetch.command()
@click.argument("name", type=click.Choice(["adhd200-sample"]))
@_out
def cohort(name: str, out: Path) -> None:
    """Download sample data: 40 subjects of ADHD-200.

    They are the subjects that nilearn distributes.
    """
    from fmritok.pipeline.resources.fetching import fetch_adhd200_sample

    with Progress("fetch"):
        root = fetch_adhd200_sample(out)
    echo(f"--dataset adhd200 --root {root}")
