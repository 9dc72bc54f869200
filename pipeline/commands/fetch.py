"""``fmritok fetch``: the only command that goes to the network."""

from __future__ import annotations

import click


@click.group()
def fetch() -> None:
    """Fetch what fmritok needs from the network; everything else works offline."""


@fetch.command()
@click.argument("hub_id", required=False)
@click.option("--revision", metavar="COMMIT", help="Pin a commit, tag or branch.")
def weights(hub_id: str | None, revision: str | None) -> None:
    """Fetch the safetensors of a 2D image autoencoder (default: the f32c32 DC-AE of TABLeT)."""
    from fmritok.tokenizers.weights import DEFAULT_HUB_ID, fetch_weights

    found = fetch_weights(hub_id or DEFAULT_HUB_ID, revision)
    click.echo(f"{found.id} at {found.revision}\n{found.folder}\nsha256 {found.sha256}")
