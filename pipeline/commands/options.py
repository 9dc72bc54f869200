"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["as_json", "cohort_options", "group_option", "print_json", "store_option"]

Function = Callable[..., Any]

store_option = click.option(
    "--store",
    required=True,
    metavar="PATH_OR_URL",
    help="Token store: a folder or a URL, such as s3://bucket/tokens.zarr.",
)
group_option = click.option(
    "--group", metavar="NAME", help="Token group. It is needed if the store has several."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def cohort_options(function: Function) -> Function:
    """Add the options that say which cohort on disk is meant."""
    for option in (
        click.option("--input", type=click.Choice(["volume", "surface"]), default="volume",
                     show_default=True,
                     help="Files to read: NIfTI volumes, or surface data (CIFTI, GIFTI)."),
        click.option("--name", metavar="NAME",
                     help="Name of the cohort in the store; default: the name of the dataset."),
        click.option("--tr", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
                     help="Repetition time of all runs; default: as the files say."),
        click.option("--root", required=True, type=click.Path(path_type=Path),
                     help="Folder of the cohort."),
        click.option("--dataset", required=True, metavar="NAME",
                     help="Layout of the cohort's folder, such as hcp; `fmritok list datasets` "
                     "shows all."),
    ):  # fmt: skip
        function = option(function)
    return function


def print_json(value: object) -> None:
    """Print a JSON document."""
    import json

    click.echo(json.dumps(value, indent=2, default=str))
