"""A finished run belongs to its source: compare a catalogue with what a store was made from.

Ids can repeat: another cohort, changed files, another repetition time. Tokens and phenotypes of one
cohort must not be taken for those of another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from fmritok.pipeline.catalog import Cohort
from fmritok.pipeline.errors import CatalogError, StoreError, expected
from fmritok.pipeline.sources.files import damage_named
from fmritok.pipeline.sources.opening import RunFiles, source_sha256
from fmritok.pipeline.store.annotations import ANNOTATIONS, read_annotation
from fmritok.pipeline.store.ledger import current_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.root import group_names, read_root

__all__ = ["CHANGED", "Binding", "check_annotations", "compare_sources"]

#: Value of ``--redo`` that stands for all runs whose source differs.
CHANGED = "changed"
_FIELDS = {
    "source": "path below the root",
    "source_bytes": "size in bytes",
    "source_frames": "number of frames",
    "source_tr": "repetition time in s",
}


@dataclass(frozen=True)
class Binding:
    """What came of comparing a catalogue with the finished runs of a store.

    Attributes
    ----------
    redo : dict of str to set of str
        By token group: finished runs to tokenize again.
    times : dict of str to int
        Time of change of files that were written anew with the same content, ns since 1970.
    """

    redo: dict[str, set[str]]
    times: dict[str, int] = field(default_factory=dict)


def compare_sources(
    location: Location,
    groups: Sequence[str],
    runs: pd.DataFrame,
    *,
    redo: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Binding:
    """Compare the sources of catalogued runs with those of finished ones.

    Parameters
    ----------
    location : Location
    groups : sequence of str
        Token groups that are to be written.
    runs : pd.DataFrame
        The catalogue.
    redo : collection of str
        Run ids to tokenize again, or ``changed`` for all whose source differs.
    say : callable
        Told before files are read to compare their content.

    Raises
    ------
    StoreError
        If a run differs from its source and is not to be redone; the first difference is named.
    RunError, OSError
        If a file cannot be read to compare its content.
    CatalogError
        If a run to be redone is not in the catalogue, or cannot be tokenized.
    """
    for run in runs[runs["run_id"].isin(set(redo)) & (runs["problem"] != "")].itertuples():
        raise CatalogError(
            expected("Option", f"--redo {run.run_id}", "a run that can be tokenized", run.problem,
                     "Repair it first: its tokens are kept until then.")
        )  # fmt: skip
    unknown = set(redo) - {CHANGED} - set(runs["run_id"])
    if unknown:
        raise CatalogError(
            expected("Option", "--redo", f"a run of this cohort, or {CHANGED}", min(unknown),
                     "List the runs with `fmritok catalog`.")
        )  # fmt: skip
    found = Binding({name: set(redo) - {CHANGED} for name in groups})
    if not location.exists("zarr.json"):
        return found
    by_id = {str(run["run_id"]): run for run in runs.to_dict("records") if not run["problem"]}
    same = _ContentOf(say)
    for group in group_names(read_root(location)):
        finished = current_runs(location, group)
        finished = finished[(finished["status"] == "done") & finished["run_id"].isin(by_id)]
        for old in finished.to_dict("records"):
            run_id = old["run_id"]
            difference = _difference(old, by_id[run_id], same, is_written=group in groups)
            if difference is None:
                if _differ(old["source_time"], by_id[run_id]["source_time"]):
                    found.times[run_id] = int(by_id[run_id]["source_time"])
                continue
            if run_id in found.redo.get(group, ()):
                continue
            if CHANGED in redo and group in found.redo:
                found.redo[group].add(run_id)
                continue
            raise _differs(location, group, run_id, *difference, is_written=group in groups)
    return found


def check_annotations(location: Location, cohort: Cohort) -> None:
    """Refuse a cohort whose phenotypes would replace those of another cohort's subjects.

    Refused are subjects whose finished runs are all missing from the catalogue and whose phenotypes
    differ.

    Raises
    ------
    StoreError
        The first value that differs is named.
    """
    if not location.exists("zarr.json") or cohort.phenotypes.empty:
        return
    mine = set(cohort.runs["run_id"])
    theirs: dict[tuple[str, str], bool] = {}
    for group in group_names(read_root(location)):
        runs = current_runs(location, group)
        runs = runs[(runs["status"] == "done") & (runs["dataset"] == cohort.dataset)]
        for dataset, subject, run_id in zip(
            runs["dataset"], runs["subject"], runs["run_id"], strict=True
        ):
            theirs[dataset, subject] = theirs.get((dataset, subject), True) and run_id not in mine
    foreign = {subject for (_, subject), is_foreign in theirs.items() if is_foreign}
    table = cohort.phenotypes[cohort.phenotypes["subject"].isin(foreign)]
    if table.empty:
        return
    known = read_annotation(location, "phenotypes")
    for key, name, old, new in _conflicts(known, table):
        raise StoreError(
            expected("Phenotypes of subject", f"{key[1]} of {key[0]} in {location}",
                     f"{name} = {old!r}, as the store has it, or a run of the store in this cohort",
                     repr(new), "If this is another cohort, give it a name with --name.")
        )  # fmt: skip


class _ContentOf:
    """Tells whether the files of a run hold what was tokenized; reads them only when asked."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._has_said = say, False
        self._found: dict[str, str] = {}

    def __call__(self, old: Mapping[Any, Any], run: Mapping[Any, Any]) -> bool:
        if not self._has_said:
            self._say("Files have another time of change than when they were tokenized; "
                      "their content is compared.")  # fmt: skip
            self._has_said = True
        run_id = str(run["run_id"])
        if run_id not in self._found:
            files = RunFiles(**{one.name: str(run[one.name]) for one in fields(RunFiles)})
            with damage_named(Path(files.path), "a file that can be read"):
                self._found[run_id] = source_sha256(files)
        return bool(self._found[run_id] == old["source_sha256"])


def _difference(
    old: Mapping[Any, Any], run: Mapping[Any, Any], same: _ContentOf, *, is_written: bool
) -> tuple[str, Any, Any] | None:
    """Return name and both values of the first thing in which a run and its source differ."""
    ours = {**run, "source_frames": run["n_frames"], "source_tr": run["tr"]}
    # Other groups may hold another representation of the run: grayordinates beside volumes.
    is_other_file = not is_written and old["source"] != run["source"]
    for name, meaning in _FIELDS.items():
        if is_other_file and name in ("source", "source_bytes"):
            continue
        if _differ(old[name], ours[name]):
            return meaning, old[name], ours[name]
    if is_other_file or not _differ(old["source_time"], run["source_time"]) or same(old, run):
        return None
    return "content (sha256)", old["source_sha256"][:12], "another"


def _differ(old: Any, new: Any) -> bool:
    """Compare two values. A missing one equals any other."""
    is_known = [not pd.isna(value) and value != "" for value in (old, new)]
    return all(is_known) and bool(old != new)


def _differs(
    location: Location,
    group: str,
    run_id: str,
    name: str,
    old: Any,
    new: Any,
    *,
    is_written: bool,
) -> StoreError:
    redo = f"tokenize it again with --redo {run_id}, or all such runs with --redo {CHANGED}"
    if not is_written:
        redo += f", and name the tokenizer of group {group} in the same call"
    return StoreError(
        expected("Source of finished run", f"{run_id} in group {group} of {location}",
                 f"{name} = {old}, as when it was tokenized", new,
                 "If this is another cohort, give it a name with --name; if the run changed, "
                 f"{redo}.")
    )  # fmt: skip


def _conflicts(
    known: pd.DataFrame, table: pd.DataFrame
) -> Iterator[tuple[tuple[str, str], str, Any, Any]]:
    """Yield subject, column and both values where two tables say different things."""
    keys = list(ANNOTATIONS["phenotypes"])
    known = known[known["subject"].isin(table["subject"])]
    rows = {tuple(row[key] for key in keys): row for row in known.to_dict("records")}
    for row in table.to_dict("records"):
        old = rows.get(tuple(row[key] for key in keys), {})
        for name in (n for n in row if n not in keys):
            if _differ(old.get(name), row[name]):
                yield (row["dataset"], row["subject"]), str(name), old[name], row[name]
