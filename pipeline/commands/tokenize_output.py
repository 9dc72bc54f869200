"""What ``plan`` and ``tokenize`` print: estimates, progress, and what became of the runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fmritok.pipeline.commands.reasons import first_few, grouped
from fmritok.terminal import echo, labelled

if TYPE_CHECKING:
    from rich.console import Console

    from fmritok.pipeline.catalog.cohort import Cohort
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.tokenization.dask_faults import Outcome
    from fmritok.pipeline.tokenization.estimate import Estimate
    from fmritok.pipeline.tokenization.task import RunTask

__all__ = ["print_estimates", "report", "say", "say_questioned", "show_progress"]


def say(text: str) -> None:
    """Print a remark, apart from the results."""
    echo(text, err=True)


def say_questioned(cohort: Cohort) -> None:
    """Name the files of a cohort that are used, and what in them is doubtful."""
    table = cohort.questioned
    for reason, names in grouped(zip(table["path"], table["reason"], strict=True)):
        say(f"Used, but check {len(names)}: {reason} ({first_few(names)})")


def show_progress(finished: Iterable[Outcome], tasks: Sequence[RunTask], console: Console) -> None:
    """Follow tasks to their end, and print the reasons of runs that failed."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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
        for count, (task, records) in enumerate(finished, start=1):
            bar.advance(shown, task.n_frames)
            elapsed = bar.tasks[0].elapsed or 1e-9
            rate = f"{count / elapsed:.2f} runs/s, {bar.tasks[0].completed / elapsed:.1f} frames/s"
            bar.update(shown, runs=f"{count}/{len(tasks)}", rate=rate)
            for reason in {r.reason for r in records.values() if r.status == "failed"}:
                line = labelled("failed", f"{task.run_id}: {reason}")
                bar.console.print(line, soft_wrap=True)


def report(
    tables: dict[str, Any], run_ids: Sequence[str], location: Location, kept: Mapping[str, str]
) -> None:
    """Print what became of the cohort in each group; exit 1 if a run is not in the store.

    Or if it is there as it was tokenized before, and its files now cannot be.
    """
    any_missing = bool(kept)
    for run_id, problem in kept.items():
        echo(f"{run_id} stays as it was tokenized; its files changed: {problem}")
    for name, table in tables.items():
        table = table.set_index("run_id", drop=False).reindex(run_ids)
        table = table.assign(run_id=run_ids, status=table["status"].fillna("lost"))
        done = table[table["status"] == "done"]
        missing = table[table["status"] != "done"]
        any_missing = any_missing or len(missing) > 0
        echo(
            f"{name}: {len(done)} runs, {int(done['n_frames'].sum()):,} frames in {location}"
            + (f"; {len(missing)} missing:" if len(missing) else "")
        )
        for run in missing.itertuples():
            echo(f"  {run.run_id}: {_reason(run)}")
    if any_missing:
        raise click.exceptions.Exit(1)


def _reason(run: Any) -> str:
    if run.status == "lost":
        return "its row is gone from the store: run the same command again"
    return str(run.reason) or "its record cannot be read"


def print_estimates(found: Sequence[Estimate], store: str) -> None:
    """Print what each group takes, how much of it is there already, and a large error."""
    from fmritok.pipeline.tokenization.estimate import error_sentence

    for one in found:
        timed = not math.isnan(one.seconds)
        duration = f", about {_duration(one.seconds)} on one worker" if timed else ""
        echo(
            f"Plan for {one.group}: {one.runs} runs, {one.frames:,} frames{duration}; "
            f"{one.raw_bytes / 1e9:.2f} GB of tokens, "
            f"about {one.stored_bytes / 1e9:.2f} GB on disk; "
            f"{one.scratch_bytes / 1e9:.2f} GB of scratch a worker"
        )
        if one.done or one.problems:
            echo(f"{store} has {one.done} runs already; {one.problems} cannot be tokenized")
        sentence = error_sentence(one.group, one.error)
        if sentence:
            say(sentence)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
