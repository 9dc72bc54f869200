"""Ledger of a token group: rows and frames of each run, and its status.

Only the planning process writes tables. Workers write shards and records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from fmritok.pipeline.store.group import create_group, is_created, lengthen, read_group
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import DESCRIPTION, IDENTITY, LATER, SOURCE
from fmritok.pipeline.store.records import list_records, remove_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.runs_table import RunsTable, empty_tables
from fmritok.pipeline.store.tables.switch import replace_tables

__all__ = ["allocate", "current_runs", "finalize", "finished_runs"]


def allocate(
    location: Location,
    spec: GroupSpec,
    runs: pd.DataFrame,
    *,
    redo: Collection[str] = (),
    times: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Assign a row and frames to every catalogued run. Existing assignments stay.

    Sites, families and head motion of finished runs become those of the catalogue, unless it does
    not know them.

    The caller holds the group (:func:`~fmritok.pipeline.store.locks.locking.one_writer`) and has
    compared the sources of finished runs.

    Parameters
    ----------
    location : Location
    spec : GroupSpec
    runs : pd.DataFrame
        Catalogued runs: the identity and source columns
        (:mod:`fmritok.pipeline.store.tables.runs_table`), ``n_frames`` (token
        frames) and ``problem`` (a reason, or empty). Runs with a problem get a
        row but no frames.
    redo : collection of str
        Finished runs to tokenize again.
    times : dict of str to str, optional
        New modification times of finished runs with unchanged content, by run id.

    Returns
    -------
    pd.DataFrame
        The given runs, in their order, with ``row``, ``start`` and ``status``.
    """
    location.remove_partial(spec.name)
    create_group(location, spec, empty_tables(spec.per_run_shapes()))
    state = read_group(location, spec.name)
    table = RunsTable.of(state)
    recorded = set(list_records(location, spec.name))
    is_done = table.fold(location, spec.name, recorded) - set(redo)
    known, columns = table.rows(), table.columns
    ends = [
        spec.aligned(start + n) for start, n in zip(columns["start"], columns["n_frames"],
                                                    strict=True) if n > 0
    ]  # fmt: skip
    free, rows = max(ends, default=0), []
    for run in runs.to_dict("records"):
        run_id = str(run["run_id"])
        wanted = 0 if run["problem"] else int(run["n_frames"])
        if run_id not in known:
            known[run_id] = table.append(run_id)
        row = known[run_id]
        rows.append(row)
        if run_id in is_done:
            if times and run_id in times:
                columns["source_time"][row] = times[run_id]
            if not run["problem"]:  # else it keeps its tokens and its description
                for name in DESCRIPTION:
                    if name in run and not pd.isna(run[name]) and run[name] != "":
                        columns[name][row] = run[name]
            continue
        # Remove the record before the table changes: after a kill in between, the run is missing.
        if run_id in recorded:
            remove_record(location, spec.name, run_id)
        table.reset(row)
        for name in (*IDENTITY, *SOURCE, *LATER):
            if name in run:
                columns[name][row] = run[name]
        if wanted:
            if spec.aligned(wanted) > spec.aligned(columns["n_frames"][row]):
                columns["start"][row] = free
                free += spec.aligned(wanted)
            columns["n_frames"][row] = wanted
    table.lengthen(free // spec.chunk_frames)
    lengths = lengthen(location, state.document, frames=free, rows=len(table))
    replace_tables(location, state.document, table.tables(), lengths=lengths)
    plan = runs.reset_index(drop=True).copy()
    plan["row"] = rows
    plan["start"] = [columns["start"][row] for row in rows]
    plan["status"] = [columns["status"][row] for row in rows]
    return plan


def finalize(location: Location, group_name: str) -> pd.DataFrame:
    """Update the tables of a group from its completion records. The caller holds the group.

    Returns
    -------
    pd.DataFrame
        The ``runs`` table.
    """
    state = read_group(location, group_name)
    table = RunsTable.of(state)
    table.fold(location, group_name, set(list_records(location, group_name)))
    tables = table.tables()
    replace_tables(location, state.document, tables)
    return tables["runs"]


def finished_runs(location: Location, group_name: str) -> set[str]:
    """Return the ids of the finished runs of a group; empty if the group does not exist yet."""
    table = current_runs(location, group_name)
    return set(table["run_id"][table["status"] == "done"])


def current_runs(location: Location, group_name: str) -> pd.DataFrame:
    """Return the runs table of a group, updated with newer records.

    A finished run without a record becomes ``planned``. The table is empty if there is no such
    group.
    """
    if not is_created(location, group_name):
        return empty_tables(())["runs"]
    table = RunsTable.of(read_group(location, group_name))
    done = table.fold(location, group_name, set(list_records(location, group_name)))
    for row, run_id in enumerate(table.columns["run_id"]):
        if table.columns["status"][row] == "done" and run_id not in done:
            table.reset(row)
    return table.tables()["runs"]
