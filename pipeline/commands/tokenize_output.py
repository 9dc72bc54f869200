"""Output of ``plan`` and ``tokenize``: estimates, progress and results."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fmritok.pipeline.commands.reasons import first_few, grouped
from fmritok.quantities import counted, duration, size
from fmritok.terminal import Verbosity, echo, labelled, remark, verbosity

if TYPE_CHECKING:
    from fmritok.pipeline.catalog.cohort import Cohort
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.tokenization.dask_faults import Outcome
    from fmritok.pipeline.tokenization.estimate import Estimate
    from fmritok.pipeline.tokenization.job import RunTask
    from fmritok.progress import Progress

__all__ = ["RunProgress", "print_estimates", "report", "say_questioned"]


def say_questioned(cohort: Cohort) -> None:
    """Print doubts about files that are used nevertheless."""
    table = cohort.questioned
    for reason, names in grouped(zip(table["path"], table["reason"], strict=True)):
        remark(f"Used, but check ({len(names)}): {reason} ({first_few(names)})")


class RunProgress:
    """Progress of a tokenization, also within runs, and the reasons of runs that failed.

    Parameters
    ----------
    tasks : sequence of RunTask
    progress : Progress
        Progress to update.
    """

    def __init__(self, tasks: Sequence[RunTask], progress: Progress) -> None:
        self._frames = {task.run_id: task.n_frames for task in tasks}
        self._progress, self._start = progress, time.monotonic()
        self._shares: dict[str, float] = {}
        self._ended: set[str] = set()
        self._show()

    def within(self, run_id: str, share: float) -> None:
        """Record the finished share of a run."""
        if run_id not in self._ended:
            self._shares[run_id] = share
            self._show()

    def follow(self, finished: Iterable[Outcome]) -> None:
        """Follow tasks to their end, and print the reasons of runs that failed."""
        for task, records in finished:
            self._ended.add(task.run_id)
            self._shares[task.run_id] = 1.0
            self._show()
            for reason in {r.reason for r in records.values() if r.status == "failed"}:
                line = labelled("failed", f"{task.run_id}: {reason}")
                self._progress.console.print(line, soft_wrap=True)
            if verbosity() == Verbosity.VERBOSE:
                for trace in {r.traceback for r in records.values() if r.traceback}:
                    self._progress.console.print(trace, soft_wrap=True)

    def _show(self) -> None:
        done = sum(self._frames[run_id] * share for run_id, share in list(self._shares.items()))
        rate = done / max(time.monotonic() - self._start, 1e-9)
        self._progress(
            done, sum(self._frames.values()), "frames",
            count=f"{len(self._ended):,} of {counted(len(self._frames), 'run')}",
            remarks=[f"{rate:,.1f} frames/s"] if done else [],
        )  # fmt: skip


def report(
    tables: dict[str, Any], run_ids: Sequence[str], location: Location, kept: Mapping[str, str]
) -> None:
    """Print the result for each group.

    The command exits with 1 if a run is missing, or if its files changed and now cannot be
    tokenized.
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
            f"{name}: {counted(len(done), 'run')}, "
            f"{counted(done['n_frames'].sum(), 'frame')} in {location}"
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


def print_estimates(found: Sequence[Estimate]) -> None:
    """Print what each group takes, how much of it is there already, and a large error."""
    from fmritok.pipeline.tokenization.estimate import error_sentence

    for one in found:
        known = not math.isnan(one.seconds)
        about = "about " if one.seconds >= 1 else ""
        needed = f"{about}{duration(one.seconds)} on one worker" if known else "time not known yet"
        needs = (
            f"; {needed}; {size(one.raw_bytes)} of tokens, about {size(one.stored_bytes)} on disk, "
            f"{size(one.scratch_bytes)} of temporary files a worker"
        )
        echo(f"Plan for {one.group}: {counted(one.runs, 'run')}, {counted(one.frames, 'frame')}"
             + (needs if one.runs else ""))  # fmt: skip
        if one.done or one.problems:
            echo(f"{one.group} has {counted(one.done, 'run')} already"
                 + (f"; {one.problems} cannot be tokenized" if one.problems else ""))  # fmt: skip
        sentence = error_sentence(one.group, one.error)
        if sentence:
            remark(sentence)
