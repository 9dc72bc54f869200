"""``fmritok tokenize`` and ``fmritok plan``: encode a cohort into a token store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fmritok.errors import StoreError, wrong_usage
from fmritok.pipeline.commands.options import (
    as_json,
    cohort_options,
    print_json,
    store_option,
)
from fmritok.pipeline.commands.tokenize_output import (
    RunProgress,
    print_estimates,
    report,
    say_questioned,
)
from fmritok.progress import Progress
from fmritok.terminal import remark

if TYPE_CHECKING:
    from fmritok.pipeline.catalog.cohort import Cohort
    from fmritok.pipeline.tokenization.dask_faults import Outcome
    from fmritok.pipeline.tokenization.job import Job, RunTask
    from fmritok.pipeline.tokenization.plan import PlannedGroup

Function = Callable[..., Any]


def _tokenizer_options(function: Function) -> Function:
    """Add the options of tokenizers and token groups."""
    for option in (
        click.option("--device", default="auto", show_default=True,
                     help="vae: device that encodes: auto, cpu, cuda, cuda:1, ..."),
        click.option("--compile/--no-compile", "compiled", default=None,
                     show_default="on a GPU with delta, bf16 or fp16",
                     help="vae: compile the autoencoder with torch.compile. It takes each worker "
                     "about a minute on a GPU; a volume then takes a quarter to a half of the "
                     "time."),
        click.option("--batch-size", type=click.IntRange(1), show_default="by the device",
                     help="vae: slices encoded together. Half of them are if memory runs out."),
        click.option("--arithmetic", "--dtype", "arithmetic", default="auto", show_default=True,
                     type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16", "delta"]),
                     help="vae: arithmetic of the autoencoder; the error of all but fp32 is "
                     "measured. auto: that of the token group if it exists, else delta on a GPU "
                     "and fp32 elsewhere. See docs/precision.md."),
        click.option("--intensity", type=click.Choice(["max", "zscore"]), default="max",
                     show_default=True, help="vae: how intensities are mapped to [-1, 1]."),
        click.option("--revision", metavar="COMMIT",
                     help="vae: commit of the Hub id in --weights."),
        click.option("--weights", default="dcae-tiny", show_default=True,
                     metavar="FOLDER_OR_HUB_ID",
                     help="vae: the autoencoder: dcae-tiny (built in), a folder of diffusers, "
                     "or a Hub id."),
        click.option("--codec", type=click.Choice(["zstd", "none"]), default="zstd",
                     show_default=True, help="Compression of the tokens on disk."),
        click.option("--store-dtype", type=click.Choice(["int8", "float16"]),
                     help="Number type of stored tokens; default: int8 for vae, else float16."),
        click.option("--set", "settings", multiple=True, metavar="TOKENIZER.OPTION=VALUE",
                     help="An option of a tokenizer, such as network.atlas=FOLDER; repeatable."),
        click.option("--group", "names", multiple=True, metavar="NAME",
                     help="Name of the token group, one for each --tokenizer; default: the "
                     "tokenizer's name."),
        click.option("--tokenizer", "tokenizers", multiple=True, metavar="NAME",
                     show_default="vae, for parcels network",
                     help="Tokenizer, such as vae, flatmap or network; repeat it to encode each "
                     "run with several."),
    ):  # fmt: skip
        function = option(function)
    return function


def _prepare(options: dict[str, Any], store: str) -> tuple[Cohort, list[PlannedGroup]]:
    """Catalogue the cohort and describe the groups that are to be written."""
    from fmritok.faults import told_apart
    from fmritok.pipeline.datasets import catalog_cohort, default_tokenizers
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.names import check_group_name
    from fmritok.pipeline.tokenization.plan import arithmetic_of, check_input, plan_group
    from fmritok.tokenizers.registry import build_tokenizer

    own = default_tokenizers(options["dataset"], options["root"])
    tokenizers, names = options["tokenizers"] or tuple(own), options["names"]
    if names and len(names) != len(tokenizers):
        raise click.UsageError(f"--group: expected {len(tokenizers)} names, one for each "
                               f"--tokenizer, got {len(names)}")  # fmt: skip
    names = names or tokenizers
    if len(set(names)) < len(names):
        raise click.UsageError("--group: expected different names for the groups of one store, "
                               f"got {', '.join(names)}")  # fmt: skip
    for name in names:
        try:
            check_group_name(name)
        except StoreError as error:
            raise wrong_usage(error) from error.__cause__
    settings = _settings(options)
    unused = set(settings) - set(tokenizers) - {"vae"}
    if unused:
        raise click.UsageError(f"--set: {min(unused)} is not among the tokenizers of this call")
    groups = []
    for tokenizer, name in zip(tokenizers, names, strict=True):
        arguments = settings.get(tokenizer, {})
        if "atlas" not in arguments:
            arguments = own.get(tokenizer, {}) | arguments
        if arguments.get("arithmetic") == "auto":
            with told_apart("plan", store):
                arguments = arguments | arithmetic_of(Location(store), name)
        built = build_tokenizer(tokenizer, arguments)
        groups.append(plan_group(built, arguments, name=name, precision=options["store_dtype"],
                                 codec=options["codec"]))  # fmt: skip
    is_parcels = options["dataset"] == "parcels"
    check_input("parcels" if is_parcels else options["input"], groups)
    with Progress("catalog"):
        cohort = catalog_cohort(
            options["dataset"],
            options["root"],
            tr=options["tr"],
            input=options["input"],
            name=options["name"],
        )
    say_questioned(cohort)
    return cohort, [_with_spaces(planned, cohort) for planned in groups]


def _with_spaces(planned: PlannedGroup, cohort: Cohort) -> PlannedGroup:
    """Record the space of a group's template, and say which runs lie apart from it."""
    from fmritok.pipeline.catalog.spaces import space_notes, space_sentences

    notes = space_notes(cohort.runs, planned.tokenizer.template_space)
    for sentence in space_sentences(planned.spec.name, notes):
        remark(sentence)
    return planned.with_notes({"spaces": notes} if notes else {})


def _settings(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Collect the options of each tokenizer. ``--set`` overrides options with their own names."""
    import yaml

    settings: dict[str, dict[str, Any]] = {
        "vae": {
            "weights": options["weights"],
            "revision": options["revision"],
            "intensity": options["intensity"],
            "arithmetic": options["arithmetic"],
            "batch_size": options["batch_size"],
            "device": options["device"],
            "compile": options["compiled"],
        }
    }
    for text in options["settings"]:
        key, equals, value = text.partition("=")
        tokenizer, dot, option = key.partition(".")
        if not (equals and dot and option):
            raise click.UsageError(f"--set: expected TOKENIZER.OPTION=VALUE, got {text!r}")
        settings.setdefault(tokenizer, {})[option] = yaml.safe_load(value)
    return settings


@click.command()
@cohort_options
@_tokenizer_options
@store_option
@as_json
def plan(store: str, as_json: bool, **options: Any) -> None:
    """Print runs, time and size of a tokenization; write nothing."""
    from fmritok.faults import told_apart
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.tokenization.estimate import estimate, measured_error
    from fmritok.pipeline.tokenization.plan import check_cohort

    cohort, groups = _prepare(options, store)
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
        print_estimates(found, store)


@click.command()
@cohort_options
@_tokenizer_options
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
    cohort, groups = _prepare(options, store)
    with told_apart("plan", store):
        errors = [measured_error(cohort, planned, location, scratch) for planned in groups]
        estimates = [
            estimate(cohort, planned, location, timed=dry_run, error=error)
            for planned, error in zip(groups, errors, strict=True)
        ]
    print_estimates(estimates, store)
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
