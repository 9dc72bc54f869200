"""``fmritok tokenize`` and ``fmritok plan``: encode a cohort into a token store."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fmritok.pipeline.commands.options import (
    as_json,
    cohort_options,
    print_json,
    store_option,
)
from fmritok.pipeline.commands.preparing import prepare, tokenizer_options
from fmritok.pipeline.commands.tokenize_output import (
    RunProgress,
    print_estimates,
    report,
)
from fmritok.progress import Progress
from fmritok.terminal import Verbosity, remark, verbosity

if TYPE_CHECKING:
    from fmritok.pipeline.tokenization.dask_faults import Outcome
    from fmritok.pipeline.tokenization.job import Job, RunTask


@click.command()
@cohort_options
@tokenizer_options
@store_option
@as_json
def plan(store: str, as_json: bool, **options: Any) -> None:
    """Print runs, time and size of a tokenization; write nothing."""
    from fmritok.faults import told_apart
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.tokenization.estimate import estimate, measured_error
    from fmritok.pipeline.tokenization.plan import check_cohort

    cohort, groups = prepare(options, store)
    with told_apart("plan", store):
        errors = [measured_error(cohort, planned, Location(store)) for planned in groups]
        found = [
            estimate(cohort, planned, Location(store), timed=True, error=error)
            for planned, error in zip(groups, errors, strict=True)
        ]
        check_cohort(Location(store), groups, cohort, say=remark)
    if as_json:
        # JSON has no NaN
        print_json([{k: None if v != v else v for k, v in vars(one).items()} for one in found])
    else:
        print_estimates(found)


@click.command()
@cohort_options
@tokenizer_options
@store_option
@click.option(
    "--executor",
    type=click.Choice(["dask", "serial"]),
    default="dask",
    show_default=True,
    help="Encode in Dask workers, or in this process (serial).",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Address of a running Dask scheduler; default: workers on this machine.",
)
@click.option(
    "--cluster",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="YAML file of a Dask cluster to start, such as SLURM; see docs/clusters.",
)
@click.option("--trust-cluster", "trusted", metavar="MODULE.CLASS",
              help="Allow the YAML of --cluster to use this class. The classes of Dask's own "
              "cluster packages are always allowed.")  # fmt: skip
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of Dask workers; default: two per GPU, or one per core.",
)
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for temporary files; default: the system's.")  # fmt: skip
@click.option("--redo", multiple=True, metavar="RUN|changed",
              help="Tokenize this run again, or (changed) all runs whose files changed; "
              "repeatable.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and stop; nothing is written.")
def tokenize(
    store: str,
    executor: str,
    scheduler: str | None,
    cluster: Path | None,
    trusted: str | None,
    workers: int | None,
    scratch: Path | None,
    redo: tuple[str, ...],
    dry_run: bool,
    **options: Any,
) -> None:
    """Encode a cohort's runs into a token store.

    Each run is read once for all tokenizers. Runs that are in the store already are skipped: after
    an interruption, run the same command again. If a run cannot be tokenized, its reason is stored,
    the others go on, and the exit status is 1. A fault of the machine or of the options stops the
    command with one error.
    """
    from fmritok.faults import told_apart
    from fmritok.pipeline.sources.scratch import check_scratch
    from fmritok.pipeline.store.ledger import finalize
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.locks.locking import MOMENT_S, one_writer
    from fmritok.pipeline.tokenization.estimate import (
        estimate,
        measured_error,
        with_measured_notes,
    )
    from fmritok.pipeline.tokenization.job import Job
    from fmritok.pipeline.tokenization.plan import check_cohort, commit_plan

    if scheduler and cluster:
        raise click.UsageError("--scheduler uses a cluster that is there; --cluster starts one. "
                               "Give one of them.")  # fmt: skip
    if trusted and not cluster:
        raise click.UsageError("--trust-cluster is for the YAML of --cluster.")
    if not (scheduler or cluster):  # workers elsewhere have folders of their own
        check_scratch(scratch)
    location = Location(store)
    cohort, groups = prepare(options, store)
    with told_apart("plan", store):
        errors = [measured_error(cohort, planned, location, scratch) for planned in groups]
        estimates = [
            estimate(cohort, planned, location, timed=dry_run, error=error)
            for planned, error in zip(groups, errors, strict=True)
        ]
    if dry_run or verbosity() > Verbosity.QUIET:
        print_estimates(estimates)
    if dry_run:
        with told_apart("plan", store):
            check_cohort(location, groups, cohort, redo=redo, say=remark)
        return
    with ExitStack() as held:
        with told_apart("plan", store):
            for name in sorted(planned.spec.name for planned in groups):
                held.enter_context(one_writer(location, name, wait_s=MOMENT_S))
            groups = [with_measured_notes(g, e) for g, e in zip(groups, errors, strict=True)]
            binding = check_cohort(location, groups, cohort, redo=redo, say=remark)
            tasks = commit_plan(location, groups, cohort, binding)
        job = Job(
            store=location.url,
            groups={planned.spec.name: planned.job for planned in groups},
            scratch=str(scratch.absolute()) if scratch else "",
        )
        try:
            _run(tasks, job, executor, scheduler, cluster, workers, trusted)
        except BaseException as error:
            for name in job.groups:
                with suppress(Exception):  # the store may be full or gone
                    finalize(location, name)
            if isinstance(error, KeyboardInterrupt):
                error.args = ("interrupted; finished runs are kept: run the same command to go on",)
            raise
        with told_apart("plan", store):
            tables = {name: finalize(location, name) for name in job.groups}
    report(tables, cohort.runs["run_id"].tolist(), location, binding.kept)


def _run(
    tasks: Sequence[RunTask],
    job: Job,
    executor: str,
    scheduler: str | None,
    cluster: Path | None,
    workers: int | None,
    trusted: str | None,
) -> None:
    from fmritok.pipeline.tokenization.execute import run_on_dask, run_serially

    if not tasks:
        return
    with Progress("tokenize") as progress:
        shown = RunProgress(tasks, progress)
        finished: Generator[Outcome]
        if executor == "serial":
            finished = run_serially(tasks, job, follow=shown.within)
        else:
            finished = run_on_dask(
                tasks,
                job,
                scheduler=scheduler,
                cluster=cluster,
                workers=workers,
                trusted=trusted,
                say=remark,
                follow=shown.within,
            )
        with closing(finished):
            shown.follow(finished)
