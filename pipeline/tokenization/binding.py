"""Binding of finished runs to their sources: compare a catalogue with the sources in a store.

Another cohort may have the same ids. Files and repetition times may change. Tokens and phenotypes
must never be attributed to another cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from fmritok.errors import CatalogError, StoreError, expected
from fmritok.pipeline.sources.files import damage_named
from fmritok.pipeline.sources.opening import RunFiles, source_sha256
from fmritok.pipeline.store.documents.root import group_names, read_root
from fmritok.pipeline.store.ledger import current_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import is_held

__all__ = ["CHANGED", "Binding", "check_others_at_work", "compare_sources"]

#: Value of ``--redo`` for all runs with a changed source.
CHANGED = "changed"
_FIELDS = {
    "source": "path below the root",
    "source_bytes": "size in bytes",
    "source_frames": "number of frames",
    "source_tr": "repetition time in s",
}
_NEXT_STEP = "If this is another cohort, give it a name with --name; "


@dataclass(frozen=True)
class Binding:
    """Result of comparing a catalogue with the finished runs of a store.

    Attributes
    ----------
    redo : dict of str to set of str
        Finished runs to tokenize again, by token group.
    times : dict of str to str
        New modification times of files with unchanged content, by run id.
    kept : dict of str to str
        Finished runs with changed files that cannot be tokenized, and the reason. Their tokens
        stay. Nothing else is taken from the catalogue for them.
    """

    redo: dict[str, set[str]]
    times: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


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
        Token groups to write.
    runs : pd.DataFrame
        Runs of the catalogue.
    redo : collection of str
        Run ids to tokenize again, or ``changed`` for all runs with a changed source.
    say : callable
        Called with messages for the user.

    Raises
    ------
    StoreError
        If a source changed and its run is not in ``redo``. The error names the first difference.
    RunError, OSError
        If a file cannot be read to compare its content.
    CatalogError
        If a run in ``redo`` is not in the catalogue, or cannot be tokenized.
    """
    _check_redo(redo, runs)
    found = Binding({name: set(redo) - {CHANGED} for name in groups})
    if not location.exists("zarr.json"):
        return found
    by_id = {str(run["run_id"]): _as_source(run) for run in runs.to_dict("records")}
    same = _ContentOf(say)
    for group in group_names(read_root(location)):
        finished = current_runs(location, group)
        finished = finished[(finished["status"] == "done") & finished["run_id"].isin(by_id)]
        for old in finished.to_dict("records"):
            run_id = old["run_id"]
            run = by_id[run_id]
            difference = _difference(old, run, same, is_written=group in groups)
            if difference is None:
                if _differ(old["source_time"], run["source_time"]):
                    found.times[run_id] = run["source_time"]
            elif CHANGED in redo and run["problem"]:
                found.kept[run_id] = run["problem"]
            elif run_id in found.redo.get(group, ()):
                continue
            elif CHANGED in redo and group in found.redo:
                found.redo[group].add(run_id)
            elif CHANGED in redo or run_id in redo:
                say(f"{run_id} in group {group} stays as it is: tokenize that group again, too.")
            else:
                raise _differs(location, group, run_id, *difference)
    return found


def check_others_at_work(location: Location, groups: Sequence[str], runs: pd.DataFrame) -> None:
    """Refuse runs that another process is tokenizing from another source into another group.

    The caller holds the root, so no other process can plan at the same time.

    Raises
    ------
    StoreError
        If there is such a run. The error names the first one.
    """
    by_id = {str(run["run_id"]): _as_source(run) for run in runs.to_dict("records")}
    for group in group_names(read_root(location)):
        if group in groups or not is_held(location, group):
            continue
        planned = current_runs(location, group)
        planned = planned[(planned["status"] == "planned") & planned["run_id"].isin(by_id)]
        for old in planned.to_dict("records"):
            run = by_id[old["run_id"]]
            difference = _difference(old, run, lambda *_: False, is_written=False)
            if difference is not None:
                raise _differs(location, group, old["run_id"], *difference)


class _ContentOf:
    """Compare the content of files with the tokenized content. Files are read only if needed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._has_said = say, False
        self._found: dict[str, str] = {}

    def __call__(self, old: Mapping[Any, Any], run: Mapping[Any, Any]) -> bool:
        if run["problem"]:  # a file is missing or unreadable
            return False
        if not self._has_said:
            self._say("Modification times of files differ from those in the store. "
                      "Comparing the content of these files.")  # fmt: skip
            self._has_said = True
        run_id = str(run["run_id"])
        if run_id not in self._found:
            files = RunFiles(**{one.name: str(run[one.name]) for one in fields(RunFiles)})
            with damage_named(Path(files.path), "a file that can be read"):
                self._found[run_id] = source_sha256(files)
        return bool(self._found[run_id] == old["source_sha256"])


def _check_redo(redo: Collection[str], runs: pd.DataFrame) -> None:
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


def _as_source(run: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a catalogued run with the source columns of the runs table."""
    known = not run["problem"]
    return {
        **run,
        "source_frames": run["n_frames"] if known else None,
        "source_tr": run["tr"] if known else None,
    }


def _difference(
    old: Mapping[Any, Any],
    run: Mapping[Any, Any],
    same: Callable[[Mapping[Any, Any], Mapping[Any, Any]], bool],
    *,
    is_written: bool,
) -> tuple[str, Any, Any] | None:
    """Return name and both values of the first difference between a run and its source."""
    # Other groups may be made from another representation, such as grayordinates.
    is_other_file = not is_written and old["source"] != run["source"]
    for name, meaning in _FIELDS.items():
        if is_other_file and name in ("source", "source_bytes"):
            continue
        if _differ(old[name], run[name]):
            return meaning, old[name], run[name]
    if is_other_file or not _differ(old["source_time"], run["source_time"]) or same(old, run):
        return None
    return "content (sha256)", old["source_sha256"][:12], "another"


def _differ(old: Any, new: Any) -> bool:
    """Compare two values. A missing one equals any other."""
    is_known = [not pd.isna(value) and value != "" for value in (old, new)]
    return all(is_known) and bool(old != new)


def _differs(
    location: Location, group: str, run_id: str, name: str, old: Any, new: Any
) -> StoreError:
    return StoreError(
        expected("Source of run", f"{run_id} in group {group} of {location}",
                 f"{name} = {old}, as when it was tokenized", new,
                 f"{_NEXT_STEP}if the run changed, tokenize it again with --redo {run_id}, or all "
                 f"such runs with --redo {CHANGED}.")
    )  # fmt: skip
