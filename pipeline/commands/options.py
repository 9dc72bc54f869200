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
    help="The token store: a folder or an fsspec URL.",
)
group_option = click.option(
    "--group", metavar="NAME", help="Token group; default: the tokenizer's name, or the only one."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def cohort_options(function: Function) -> Function:
    """Add the options that say which cohort on disk is meant."""
    for option in (
        click.option("--input", type=click.Choice(["volume", "surface"]), default="volume",
                     show_default=True, help="Volumes, or CIFTI and GIFTI time series."),
        click.option("--name", metavar="NAME",
                     help="The cohort's name in the store; default: the dataset's."),
        click.option("--tr", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
                     help="Repetition time of every run, instead of the headers'."),
        click.option("--root", required=True, type=click.Path(path_type=Path),
                     help="Folder of the cohort on disk."),
        click.option("--dataset", required=True, metavar="NAME", help="Its layout, such as hcp."),
    ):  # fmt: skip
        function = option(function)
    return function


def print_json(value: object) -> None:
    """Print a JSON document."""
    import json

    click.echo(json.dumps(value, indent=2, default=str))
