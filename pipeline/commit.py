"""Commit a plan: refuse what belongs to another cohort, give runs their frames, list the tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from fmritok.pipeline.binding import Binding, check_annotations, compare_sources
from fmritok.pipeline.catalog import Cohort
from fmritok.pipeline.plan import PlannedGroup
from fmritok.pipeline.sources.opening import RunFiles
from fmritok.pipeline.store.annotations import ANNOTATIONS, write_annotations
from fmritok.pipeline.store.group import is_created
from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locking import one_writer
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.root import ROOT_WAIT_S
from fmritok.pipeline.store.runs_table import SOURCE
from fmritok.pipeline.task import RunPart, RunTask

__all__ = ["check_cohort", "commit_plan"]


def check_cohort(
    location: Location,
    groups: Sequence[PlannedGroup],
    cohort: Cohort,
    *,
    redo: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Binding:
    """Refuse a cohort that would inherit or replace what belongs to another; nothing is written.

    Parameters
    ----------
    location, groups, cohort
    redo, say
        See :func:`fmritok.pipeline.binding.compare_sources`.

    Raises
    ------
    StoreError
        If a finished run, or a subject with phenotypes, is another cohort's.
    """
    names = [planned.spec.name for planned in groups]
    binding = compare_sources(location, names, cohort.runs, redo=redo, say=say)
    check_annotations(location, cohort)
    return binding


def commit_plan(
    location: Location,
    groups: Sequence[PlannedGroup],
    cohort: Cohort,
    *,
    redo: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> list[RunTask]:
    """Give the cohort's runs their frames in every group, and return what is left to do.

    The caller holds the groups. Runs with a problem get a failed record: the store tells why they
    are missing.

    Parameters
    ----------
    location, groups, cohort
    redo, say
        See :func:`check_cohort`.

    Returns
    -------
    list of RunTask
        One per run that is missing in some group. The longest come first: otherwise a long run at
        the end would keep one worker busy alone.

    Raises
    ------
    StoreError
        If a finished run, or a subject with phenotypes, is another cohort's.
    """
    for planned in groups:
        if is_created(location, planned.spec.name):
            finalize(location, planned.spec.name)  # what is folded once is not read again below
    binding = check_cohort(location, groups, cohort, redo=redo, say=say)
    parts: dict[str, list[RunPart]] = {}
    for planned in groups:
        name = planned.spec.name
        plan = allocate(
            location,
            planned.spec,
            planned.runs_of(cohort),
            redo=binding.redo[name],
            times=binding.times,
        )
        for run in plan[plan["status"] != "done"].to_dict("records"):
            run_id = str(run["run_id"])
            if run["problem"]:
                write_record(location, name, RunRecord(run_id, "failed", reason=run["problem"]))
            else:
                part = RunPart(name, int(run["row"]), int(run["start"]), int(run["n_frames"]))
                parts.setdefault(run_id, []).append(part)
    with one_writer(location, wait_s=ROOT_WAIT_S):
        tables = (cohort.phenotypes, cohort.columns, cohort.events)
        write_annotations(location, dict(zip(ANNOTATIONS, tables, strict=True)))
    files = [f.name for f in fields(RunFiles)]
    tasks = [
        RunTask(
            run["run_id"],
            RunFiles(**{name: str(run[name]) for name in files}),
            int(run["n_frames"]),
            float(run["tr"]),
            tuple(parts[run["run_id"]]),
            _source_of(run),
        )
        for run in cohort.runs.to_dict("records")
        if run["run_id"] in parts
    ]
    return sorted(tasks, key=lambda task: -task.n_frames)


def _source_of(run: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a finished run is bound to, as plain values."""
    bound = {**run, "source_frames": run["n_frames"], "source_tr": run["tr"]}
    types: dict[str, Any] = {"text": str, "integer": int, "number": float}
    return {name: types[kind](bound[name]) for name, kind in SOURCE.items()}
