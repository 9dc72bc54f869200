"""``fmritok demo-data``: write a simulated cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from fmritok.pipeline.demo.config import DemoConfig
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
    """Write a simulated cohort in the layout of the HCP to the folder OUT.

    An effect of 0 is absent. Nothing is downloaded. The same command finishes a cohort that was
    interrupted; with more --subjects it adds subjects.
    """
    from fmritok.errors import FmritokError
    from fmritok.pipeline.demo.cohort import write_demo_cohort

    try:
        config = DemoConfig(**options)
    except FmritokError as error:
        raise click.UsageError(str(error)) from error
    total = config.subjects * len(config.runs)
    with click.progressbar(length=total, label="runs", show_pos=True) as bar:
        write_demo_cohort(out, config, lambda done, _: bar.update(done - bar.pos))
    echo(f"{total} simulated runs of {config.frames} frames: {out}")
