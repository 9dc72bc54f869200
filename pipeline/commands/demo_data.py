"""``fmritok demo-data``: write a simulated cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import click

from fmritok.pipeline.demo.config import DemoConfig
from fmritok.progress import Progress
from fmritok.quantities import counted
from fmritok.terminal import echo

__all__ = ["demo_data"]

Function = Callable[..., Any]


def _config_options(function: Function) -> Function:
    """Add an option for each field of :class:`DemoConfig`; tuples are repeated options."""
    for field in reversed(fields(DemoConfig)):
        is_many = isinstance(field.default, tuple)
        name = field.name.removesuffix("s") if is_many else field.name
        function = click.option(
            f"--{name.replace('_', '-')}",
            field.name,
            type=type(field.default[0] if is_many else field.default),
            multiple=is_many,
            default=field.default,
            show_default=True,
            help=field.metadata["help"],
        )(function)
    return function


@click.command("demo-data")
@click.argument("out", type=click.Path(path_type=Path))
@_config_options
def demo_data(out: Path, **options: Any) -> None:
    """Write a simulated cohort in the layout of the HCP.

    OUT is the folder to write to. Nothing is downloaded. An effect of 0 is absent. Run the same
    command again to finish an interrupted cohort, or with a larger --subjects to add subjects.
    """
    from fmritok.errors import FmritokError
    from fmritok.pipeline.demo.cohort import write_demo_cohort

    try:
        config = DemoConfig(**options)
    except FmritokError as error:
        raise click.UsageError(str(error)) from error
    total = config.subjects * len(config.runs)
    with Progress("demo-data") as progress:
        write_demo_cohort(out, config, partial(progress, unit="runs"))
    echo(f"{counted(total, 'simulated run')} of {counted(config.frames, 'frame')}: {out}")
