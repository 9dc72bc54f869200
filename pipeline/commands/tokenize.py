"""``fmritok tokenize`` and ``fmritok plan``: a cohort on disk in, a token store out."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fmritok.pipeline.commands.options import (
    as_json,
    cohort_options,
    group_option,
    print_json,
    store_option,
)

if TYPE_CHECKING:
    from fmritok.pipeline.catalog import Cohort
    from fmritok.pipeline.plan import Estimate
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.records import RunRecord
    from fmritok.pipeline.store.schema import GroupSpec
    from fmritok.pipeline.task import GroupJob, RunTask
    from fmritok.tokenizers.base import Tokenizer

Function = Callable[..., Any]


def _tokenizer_options(function: Function) -> Function:
    """Add the options that decide what tokens are made."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="Where to encode."),
        click.option("--compile", "compiled", is_flag=True, help="Run through torch.compile."),
        click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True,
                     help="Slices encoded together."),
        click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32",
                     show_default=True, help="Arithmetic of the encoder; bf16 is measured."),
        click.option("--codec", type=click.Choice(["zstd", "none"]), default="zstd",
                     show_default=True, help="Compression of the store."),
        click.option("--precision", type=click.Choice(["int8", "float16"]), default="int8",
                     show_default=True, help="How tokens are stored."),
        click.option("--intensity", type=click.Choice(["max", "zscore"]), default="max",
                     show_default=True, help="How intensities are mapped to [-1, 1]."),
        click.option("--revision", metavar="COMMIT", help="Pin a hub id to a commit."),
        click.option("--weights", default="dcae-tiny", show_default=True,
                     metavar="FOLDER_OR_HUB_ID", help="The autoencoder, as diffusers saves it."),
        group_option,
        click.option("--tokenizer", default="vae", show_default=True, metavar="NAME"),
    ):  # fmt: skip
        function = option(function)
    return function


def _prepare(options: dict[str, Any]) -> tuple[Cohort, Tokenizer, str, GroupSpec]:
    """Catalogue the cohort and describe the group that is to be written."""
    from fmritok.pipeline.datasets import get_adapter
    from fmritok.pipeline.plan import group_spec
    from fmritok.tokenizers.registry import build_tokenizer

    cohort = get_adapter(options["dataset"])(options["root"], tr=options["tr"])
    arguments = json.dumps(
        {
            "weights": options["weights"],
            "revision": options["revision"],
            "intensity": options["intensity"],
            "dtype": options["dtype"],
            "batch_size": options["batch_size"],
            "device": options["device"],
            "compile": options["compiled"],
        }
    )
    tokenizer = build_tokenizer(options["tokenizer"], json.loads(arguments))
    spec = group_spec(
        tokenizer, options["group"] or tokenizer.name, options["precision"], options["codec"]
    )
    return cohort, tokenizer, arguments, spec


@click.command()
@cohort_options
@_tokenizer_options
@store_option
@as_json
def plan(store: str, as_json: bool, **options: Any) -> None:
    """Show what a tokenization would do and take; nothing is written."""
    from fmritok.pipeline.plan import estimate
    from fmritok.pipeline.store.location import Location

    cohort, tokenizer, _, spec = _prepare(options)
    found = estimate(cohort, spec, Location(store), tokenizer)
    if as_json:
        print_json(vars(found))
    else:
        _print_estimate(found, store)


@click.command()
@cohort_options
@_tokenizer_options
@store_option
@click.option("--executor", type=click.Choice(["dask", "serial"]), default="dask",
              show_default=True, help="Dask workers, or this process.")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler to use.")
@click.option(
    "--workers", type=click.IntRange(1), help="Workers; default: one per GPU, or per core."
)
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for working files; default: the system's.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Stop after the plan.")
def tokenize(
    store: str,
    executor: str,
    scheduler: str | None,
    workers: int | None,
    scratch: Path | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Encode a cohort's runs into a token store.

    Runs that are in the store already are skipped; run the same command again after an
    interruption. A bad run is set aside with its reason, the others go on, and the exit status
    is 1.
    """
    from dataclasses import replace

    from fmritok.pipeline.plan import commit_plan, estimate, measured_notes
    from fmritok.pipeline.store.ledger import finalize, one_writer
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.schema import is_created
    from fmritok.pipeline.task import GroupJob

    location = Location(store)
    cohort, tokenizer, arguments, spec = _prepare(options)
    _print_estimate(estimate(cohort, spec, location), store)
    if dry_run:
        return
    with one_writer(location, spec.name):
        if not is_created(location, spec.name):
            spec = replace(spec, notes={**spec.notes, **measured_notes(cohort, spec, tokenizer)})
        tasks = commit_plan(location, spec, cohort)
        job = GroupJob(
            store=location.url,
            group=spec.name,
            tokenizer=tokenizer.name,
            options=arguments,
            precision=spec.precision,
            scratch=str(scratch.absolute()) if scratch else "",
        )
        try:
            with _terminated_as_interrupted():
                _run(tasks, job, executor, scheduler, workers)
        except BaseException as error:
            with suppress(OSError):  # a full disk has no room for the table either
                finalize(location, spec.name)
            if isinstance(error, KeyboardInterrupt):
                raise click.ClickException(
                    "interrupted; finished runs are kept: run the same command to go on"
                ) from error
            raise
        table = finalize(location, spec.name)
    _report(table[table["run_id"].isin(cohort.runs["run_id"])], location)


def _run(
    tasks: Sequence[RunTask],
    job: GroupJob,
    executor: str,
    scheduler: str | None,
    workers: int | None,
) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from fmritok.pipeline.execute import run_on_dask, run_serially

    console = Console(stderr=True)
    finished: Iterator[tuple[RunTask, RunRecord]]
    if executor == "serial":
        finished = run_serially(tasks, job)
    else:
        finished = run_on_dask(tasks, job, scheduler=scheduler, workers=workers, say=console.print)
    if not tasks:
        return
    with Progress(
        TextColumn("tokenizing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames  {task.fields[runs]} runs  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        total = sum(task.n_frames for task in tasks)
        shown = bar.add_task("", total=total, runs=f"0/{len(tasks)}", rate="")
        for count, (task, record) in enumerate(finished, start=1):
            bar.advance(shown, task.n_frames)
            elapsed = bar.tasks[0].elapsed or 1e-9
            rate = f"{count / elapsed:.2f} runs/s, {bar.tasks[0].completed / elapsed:.1f} frames/s"
            bar.update(shown, runs=f"{count}/{len(tasks)}", rate=rate)
            if record.status == "failed":
                bar.console.print(f"[red]failed[/red] {record.run_id}: {record.reason}",
                                  soft_wrap=True)  # fmt: skip


def _report(table: Any, location: Location) -> None:
    """Print what became of the cohort; exit 1 if a run is not in the store."""
    done = table[table["status"] == "done"]
    missing = table[table["status"] != "done"]
    click.echo(
        f"{len(done)} runs, {int(done['n_frames'].sum()):,} frames in {location}"
        + (f"; {len(missing)} missing:" if len(missing) else "")
    )
    for run in missing.itertuples():
        click.echo(f"  {run.run_id}: {run.reason or 'its record cannot be read'}")
    if len(missing):
        raise click.exceptions.Exit(1)


def _print_estimate(found: Estimate, store: str) -> None:
    timed = not math.isnan(found.seconds)
    duration = f", about {_duration(found.seconds)} on one worker" if timed else ""
    click.echo(
        f"Plan: {found.runs} runs, {found.frames:,} frames{duration}; "
        f"{found.raw_bytes / 1e9:.2f} GB of tokens, "
        f"about {found.stored_bytes / 1e9:.2f} GB on disk; "
        f"{found.scratch_bytes / 1e9:.2f} GB of scratch a worker"
    )
    if found.done or found.problems:
        click.echo(f"{store} has {found.done} runs already; {found.problems} cannot be tokenized")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM, which clusters send before they kill, like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
