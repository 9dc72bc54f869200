"""The plan: token groups to write, frames assigned to runs, and remaining tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import pandas as pd

from fmritok.errors import FmritokError, expected, wrong_usage
from fmritok.pipeline.catalog.cohort import Cohort
from fmritok.pipeline.catalog.ownership import check_annotations, without_kept
from fmritok.pipeline.sources.opening import files_of_row
from fmritok.pipeline.store.chunks.codec import Codec
from fmritok.pipeline.store.documents.root import ROOT_WAIT_S, create_root
from fmritok.pipeline.store.group import check_contract, is_created, read_group
from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import one_writer
from fmritok.pipeline.store.names import IDENTITY, LATER, SOURCE
from fmritok.pipeline.store.precision import Precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.annotations import ANNOTATIONS, write_annotations
from fmritok.pipeline.tokenization.binding import Binding, check_others_at_work, compare_sources
from fmritok.pipeline.tokenization.job import GroupJob, RunPart, RunTask
from fmritok.tokenizers.base import Tokenizer, VolumeTokenizer
from fmritok.tokenizers.spaces import ParcelSpace
from fmritok.tokenizers.stored import kept_options

__all__ = [
    "PlannedGroup", "arithmetic_of", "check_cohort", "check_input", "commit_plan", "plan_group",
]  # fmt: skip


@dataclass(frozen=True)
class PlannedGroup:
    """One token group to write.

    Attributes
    ----------
    tokenizer : Tokenizer
    job : GroupJob
        The configuration from which workers build the same tokenizer.
    spec : GroupSpec
    """

    tokenizer: Tokenizer
    job: GroupJob
    spec: GroupSpec

    def with_notes(self, notes: Mapping[str, Any]) -> PlannedGroup:
        """Return the group with further facts that do not change the tokens."""
        return replace(self, spec=replace(self.spec, notes={**self.spec.notes, **notes}))

    def runs_of(self, cohort: Cohort) -> pd.DataFrame:
        """Return the runs of a cohort with the token frames and repetition time of this group."""
        runs = cohort.runs.assign(
            source_frames=cohort.runs["n_frames"], source_tr=cohort.runs["tr"]
        )
        found = [
            self.tokenizer.timing(int(n), float(tr)) if n > 0 and tr > 0 else (0, tr)
            for n, tr in zip(runs["n_frames"], runs["tr"], strict=True)
        ]
        runs["n_frames"] = [n for n, _ in found]
        runs["tr"] = [tr for _, tr in found]
        return runs


def plan_group(
    tokenizer: Tokenizer,
    options: dict[str, Any],
    *,
    name: str | None = None,
    precision: Precision | None = None,
    codec: Codec = "zstd",
) -> PlannedGroup:
    """Plan the token group of a tokenizer.

    Parameters
    ----------
    tokenizer : Tokenizer
    options : dict
        Options of the tokenizer.
    name : str, optional
        Name of the group. Default: the name of the tokenizer.
    precision : {"int8", "float16"}, optional
        Store dtype. Default: that of the tokenizer.
    codec : {"zstd", "none"}
    """
    options = {**options, **tokenizer.decided}
    grid = tokenizer.grid
    stored: Precision = precision or tokenizer.default_precision  # type: ignore[assignment]
    packages = ("fmritok", "torch", "diffusers", "zarr", "nibabel", "nilearn", "numpy", "scipy")
    spec = GroupSpec(
        name=name or tokenizer.name,
        n_tokens=grid.n_tokens,
        dim=grid.dim,
        precision=stored,
        codec=codec,
        chunk_frames=tokenizer.chunk_frames,
        run_arrays=tokenizer.run_arrays,
        static={"coordinates": grid.coordinates, **grid.static},
        provenance=json.loads(json.dumps(tokenizer.provenance())),
        notes=tokenizer.notes()
        | {
            "options": kept_options(tokenizer, options),
            "versions": {p: version(p) for p in packages},
        },
    )
    return PlannedGroup(tokenizer, GroupJob(tokenizer.name, json.dumps(options), stored), spec)


def arithmetic_of(location: Location, group: str) -> dict[str, str]:
    """Return the arithmetic of a group as an option of its tokenizer; nothing for a new group."""
    if not is_created(location, group):
        return {}
    arithmetic = read_group(location, group).contract["provenance"].get("dtype")
    return {"arithmetic": arithmetic} if arithmetic else {}


def check_input(
    cohort_input: Literal["volume", "surface", "parcels"], groups: Sequence[PlannedGroup]
) -> None:
    """Refuse a tokenizer of volumes for surfaces, and all but those of parcels for parcels.

    Raises
    ------
    FmritokError
    """
    for planned in groups:
        wanted = planned.tokenizer.problem(ParcelSpace(planned.spec.n_tokens))
        if cohort_input == "parcels" and wanted:
            raise wrong_usage(FmritokError(
                expected("Tokenizer", planned.tokenizer.name, wanted,
                         "time courses of parcels", "Choose --tokenizer network.")
            ))  # fmt: skip
        if cohort_input == "surface" and isinstance(planned.tokenizer, VolumeTokenizer):
            raise wrong_usage(FmritokError(
                expected("Tokenizer", planned.tokenizer.name, "volumes", "--input surface",
                         "Tokenize volumes in a separate call, into the same store.")
            ))  # fmt: skip


def check_cohort(
    location: Location,
    groups: Sequence[PlannedGroup],
    cohort: Cohort,
    *,
    redo: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Binding:
    """Refuse a cohort that clashes with runs or phenotypes of another cohort. Writes nothing.

    Refuses other options than those of an existing group, too.

    Parameters
    ----------
    location, groups, cohort
    redo, say
        See :func:`fmritok.pipeline.tokenization.binding.compare_sources`.

    Raises
    ------
    ProvenanceMismatchError
        If a group exists with another contract.
    StoreError
        If a finished run, or a subject with phenotypes, belongs to another cohort.
    """
    for planned in groups:
        if is_created(location, planned.spec.name):
            check_contract(location, planned.spec)
    names = [planned.spec.name for planned in groups]
    binding = compare_sources(location, names, cohort.runs, redo=redo, say=say)
    check_annotations(location, without_kept(cohort, binding.kept), binding.kept)
    return binding


def commit_plan(
    location: Location,
    groups: Sequence[PlannedGroup],
    cohort: Cohort,
    binding: Binding | None = None,
) -> list[RunTask]:
    """Assign frames to the runs of a cohort in every group, and return the remaining tasks.

    The caller holds the groups. Runs with a problem get a failed record with the reason.

    Parameters
    ----------
    location, groups, cohort
    binding : Binding, optional
        Result of :func:`check_cohort`. Default: computed here.

    Returns
    -------
    list of RunTask
        One per run that is missing in any group. Longest runs first: a long run at the end would
        occupy one worker while the others are idle.

    Raises
    ------
    StoreError
        If a finished run, or a subject with phenotypes, belongs to another cohort, or another
        process is tokenizing other files with the same run ids.
    """
    for planned in groups:
        if is_created(location, planned.spec.name):
            finalize(location, planned.spec.name)  # reads each record once
    bound = binding or check_cohort(location, groups, cohort)
    create_root(location)
    with one_writer(location, wait_s=ROOT_WAIT_S):
        check_others_at_work(location, [g.spec.name for g in groups], cohort.runs)
        parts = _allocate(location, groups, cohort, bound)
        ours = without_kept(cohort, bound.kept)
        tables = (ours.phenotypes, ours.columns, ours.events)
        # Events of runs that are tokenized again are replaced.
        write_annotations(
            location, dict(zip(ANNOTATIONS, tables, strict=True)), anew={"events": set(parts)}
        )
    tasks = [
        RunTask(
            run["run_id"],
            files_of_row(run),
            int(run["n_frames"]),
            float(run["tr"]),
            tuple(parts[run["run_id"]]),
        )
        for run in cohort.runs.to_dict("records")
        if run["run_id"] in parts
    ]
    return sorted(tasks, key=lambda task: -task.n_frames)


def _allocate(
    location: Location, groups: Sequence[PlannedGroup], cohort: Cohort, bound: Binding
) -> dict[str, list[RunPart]]:
    """Return the remaining parts of each run that is missing in any group."""
    parts: dict[str, list[RunPart]] = {}
    for planned in groups:
        name = planned.spec.name
        plan = allocate(
            location,
            planned.spec,
            planned.runs_of(cohort),
            redo=bound.redo[name],
            times=bound.times,
        )
        for run in plan[plan["status"] != "done"].to_dict("records"):
            run_id = str(run["run_id"])
            if run["problem"]:
                write_record(location, name, RunRecord(run_id, "failed", reason=run["problem"]))
            else:
                frames = int(run["start"]), int(run["n_frames"])
                part = RunPart(name, int(run["row"]), *frames, _columns(run))
                parts.setdefault(run_id, []).append(part)
    return parts


def _columns(run: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of a run for the ``runs`` table as plain types; None if unknown."""
    types: dict[str, Any] = {"text": str, "integer": int, "number": float}
    kinds = {**dict.fromkeys(IDENTITY, "text"), "tr": "number", **SOURCE, **LATER}
    return {
        name: None if pd.isna(run[name]) else types[kind](run[name])
        for name, kind in kinds.items()
        if name != "run_id"
    }
