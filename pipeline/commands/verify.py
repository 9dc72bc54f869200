"""``fmritok verify``: read a store back against its checksums."""

from __future__ import annotations

from functools import partial

import click

from fmritok.pipeline.commands.options import as_json, print_json, store_option
from fmritok.progress import Progress
from fmritok.terminal import echo, remark


@click.command()
@store_option
@click.option(
    "--drop", is_flag=True, help="Remove damaged runs; `fmritok tokenize` makes them again."
)
@as_json
def verify(store: str, drop: bool, as_json: bool) -> None:
    """Compare a store with its checksums; list damaged runs, and exit with 1 if there are any."""
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.verify import drop_runs, unfinished_groups, verify_store

    location = Location(store)
    with Progress("verify") as progress:
        damage = list(verify_store(location, partial(progress, unit="runs")))
    if as_json:
        print_json([vars(d) for d in damage])
    else:
        for d in damage:
            place = f"run {d.run_id}" if d.run_id else "metadata"
            echo(f"damaged {place} ({d.where}): {d.what}")
        if not damage:
            echo(f"{store} is sound")
            for name in unfinished_groups(location):
                echo(
                    f"group {name} has runs that are planned: it is being written, or its "
                    "tokenization was interrupted"
                )
    if drop:
        count = drop_runs(location, damage)
        remark(f"{count} runs dropped: the same `fmritok tokenize` redoes them")
        if any(d.is_table for d in damage):
            remark("tables were made again from the records: verify again")
    if damage:
        raise click.exceptions.Exit(1)
