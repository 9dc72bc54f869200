"""Verification of a store: compare everything with its checksums, and report damage.

Three kinds of checksums cover a store. Shards and per-run arrays have a crc32c per chunk and a
sha256 per run. Each completion record has a digest. The seal of a group
(:mod:`fmritok.pipeline.store.documents.seal`) covers all other files: metadata, tables, static
arrays.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pandas as pd

from fmritok.errors import StoreError
from fmritok.pipeline.store.chunks.shard_files import forget_all
from fmritok.pipeline.store.damage import Damage, damaged_files
from fmritok.pipeline.store.documents.root import ROOT_WAIT_S, forget_group, group_names, read_root
from fmritok.pipeline.store.documents.seal import exists_document
from fmritok.pipeline.store.group import GroupState, read_group
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import MOMENT_S, one_writer
from fmritok.pipeline.store.records import (
    RunRecord,
    list_records,
    read_record,
    record_key,
    remove_record,
)
from fmritok.pipeline.store.tables.mending import mend_tables
from fmritok.pipeline.store.writer import stored_sha256

__all__ = ["drop_runs", "unfinished_groups", "verify_store"]

Progress = Callable[[int, int], None]


def unfinished_groups(location: Location) -> list[str]:
    """Return the groups with planned runs: a tokenization is running or was interrupted."""
    found = []
    for name in group_names(read_root(location)):
        table = read_group(location, name).table("runs")
        planned = table["run_id"][table["status"] == "planned"]
        if len(planned) and not planned.isin(list_records(location, name)).all():
            found.append(name)
    return found


def verify_store(location: Location, progress: Progress | None = None) -> Iterator[Damage]:
    """Read a whole store, and yield all damage.

    Parameters
    ----------
    location : Location
    progress : callable, optional
        Called with (verified runs, all runs).

    Raises
    ------
    StoreError
        If there is no store.
    """
    try:
        root = read_root(location)
    except StoreError as error:
        if not location.exists("zarr.json"):
            raise
        yield Damage("", "", "zarr.json", str(error))
        return
    forget_all()
    yield from damaged_files(location, "")
    names = group_names(root)
    records = {name: list_records(location, name) for name in names}
    seen, total = 0, sum(map(len, records.values()))
    for name in names:
        damaged = False
        for found in damaged_files(location, name):
            damaged = True
            yield found
        if damaged:  # its runs cannot be verified
            seen += len(records[name])
            continue
        state = read_group(location, name)
        runs = _by_id(state)
        done = runs["run_id"][runs["status"] == "done"]
        for run_id in done[~done.isin(records[name])]:
            if read_record(location, name, run_id) is None:
                yield Damage(name, run_id, f"{name}/records/{run_id}",
                             "the completion record is gone")  # fmt: skip
        for run_id in records[name]:
            yield from _verify_run(location, state, runs, run_id)
            seen += 1
            if progress:
                progress(seen, total)


def drop_runs(location: Location, damage: Iterable[Damage]) -> int:
    """Delete records of damaged runs, rebuild damaged tables, unlist missing groups.

    Tokenizing again then redoes only these runs. Damage is verified again while the group is held:
    runs that were rewritten in between are kept.

    Returns
    -------
    int
        Number of dropped runs.

    Raises
    ------
    StoreError
        If another process writes to one of the groups.
    """
    damage = list(damage)
    with ExitStack() as held:
        for name in sorted({found.group for found in damage if found.group}):
            held.enter_context(one_writer(location, name, wait_s=MOMENT_S))
        dropped = 0
        states = {
            name: read_group(location, name) for name in {f.group for f in damage if f.run_id}
        }
        tables = {name: _by_id(state) for name, state in states.items()}
        for name, run_id in sorted({(f.group, f.run_id) for f in damage if f.run_id}):
            state, runs = states[name], tables[name]
            if any(_verify_run(location, state, runs, run_id)):
                remove_record(location, name, run_id)
                dropped += 1
            elif run_id in runs.index and read_record(location, name, run_id) is None:
                dropped += 1  # deleted already: the next tokenization redoes the run
        for name in sorted({found.group for found in damage if found.is_table}):
            if any(found.is_table for found in damaged_files(location, name)):
                mend_tables(location, name)
        for found in damage:
            if found.is_gone and not exists_document(location, found.group):
                with one_writer(location, wait_s=ROOT_WAIT_S):
                    forget_group(location, found.group)
    return dropped


def _verify_run(
    location: Location, state: GroupState, runs: pd.DataFrame, run_id: str
) -> Iterator[Damage]:
    """Verify a run, unless it was replaced in between."""
    name = state.document.path
    key = record_key(name, run_id)
    try:
        record = read_record(location, name, run_id)
    except StoreError as error:
        yield Damage(name, run_id, key, str(error))
        return
    if record is None or record.status != "done":
        return
    if run_id not in runs.index:
        yield Damage(name, run_id, key, "the run is missing from the runs table")
        return
    run = runs.loc[run_id]
    found = list(_compare(state, record, run))
    if found and read_record(location, name, run_id) == record:
        yield from found


def _compare(state: GroupState, record: RunRecord, run: Any) -> Iterator[Damage]:
    name = state.document.path
    is_folded = run["status"] == "done"
    per_run = [array for array in state.document.growing if array != "tokens"]
    place = int(run["start"]), int(run["n_frames"])
    if record.misfit(*place, int(state.contract["chunk_frames"]), per_run) or (
        is_folded and run["checksum"] != record.checksum
    ):
        yield Damage(name, record.run_id, record_key(name, record.run_id),
                     "does not fit the runs table")  # fmt: skip
        return
    for array, direct in state.direct().items():
        first, count = (
            (record.start, record.n_frames) if array == "tokens" else (int(run["row"]), 1)
        )
        try:
            found = stored_sha256(direct, first, count, record.crcs(array))
        except (StoreError, IndexError, OSError) as error:
            # A store without answer or permission is not damaged.
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            yield Damage(name, record.run_id, f"{name}/{array}", f"cannot be read ({error})")
            continue
        if found != record.checksums[array]["sha256"]:
            yield Damage(name, record.run_id, f"{name}/{array}",
                         "differs from the record's checksum")  # fmt: skip


def _by_id(state: GroupState) -> pd.DataFrame:
    """Return the runs table indexed by run id, with a column of row numbers."""
    runs = state.table("runs")
    return runs.assign(row=range(len(runs))).set_index("run_id", drop=False)
