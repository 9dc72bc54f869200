"""Which run owns which frames of a group, and what became of it: the ``runs`` table.

Only the process that plans and finalizes writes here; workers write shards and records.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fmritok.pipeline.errors import StoreError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.records import list_records, read_records
from fmritok.pipeline.store.schema import GroupSpec, create_group, grow_group, is_created
from fmritok.pipeline.store.table import read_table, write_table
from fmritok.pipeline.store.verify import seal_group, unseal

if TYPE_CHECKING:
    import zarr

__all__ = ["RUN_COLUMNS", "allocate", "finalize", "finished_runs", "one_writer"]

#: What the table says of a run besides what became of it.
IDENTITY = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space", "source",
]  # fmt: skip
RUN_COLUMNS = [
    *IDENTITY, "start", "n_frames", "status", "reason", "checksum", "source_sha256",
]  # fmt: skip


@contextmanager
def one_writer(location: Location, group: str, *, wait_s: float = 0) -> Iterator[None]:
    """Hold a group of a local store for one planning process; object stores have no locks.

    Parameters
    ----------
    location : Location
    group : str
        Token group, or ``annotations`` for the subjects' tables.
    wait_s : float
        How long to wait for another process, s.

    Raises
    ------
    StoreError
        If another process holds it.
    """
    if not location.is_local:
        yield
        return
    from filelock import FileLock, Timeout

    path = Path(location.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.{group}.lock"))
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise StoreError(
            expected(f"Token group {group} of", location, "no other writer",
                     "another `fmritok tokenize` at work", "Wait for it, or stop it.")
        ) from error  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def allocate(location: Location, spec: GroupSpec, runs: pd.DataFrame) -> pd.DataFrame:
    """Give every catalogued run its row and its frames; runs that have them keep them.

    Parameters
    ----------
    location : Location
    spec : GroupSpec
    runs : pd.DataFrame
        Catalogued runs: the identity columns, ``n_frames`` as the tokenizer will write them, and
        ``problem`` (a reason, or empty): runs with a problem get a row but no frames.

    Returns
    -------
    pd.DataFrame
        The given runs, in their order, with ``row``, ``start`` and ``status``.
    """
    group = create_group(location, spec)
    unseal(group)
    table = _load(group)
    known = dict(zip(table["run_id"], range(len(table)), strict=True))
    is_done = _done(location, spec.name, table)
    ends = [
        spec.aligned(int(e)) for e in (table["start"] + table["n_frames"])[table["n_frames"] > 0]
    ]
    free = max(ends, default=0)
    columns: dict[str, list] = {name: table[name].tolist() for name in RUN_COLUMNS}
    rows = []
    for run in runs.to_dict("records"):
        run_id = str(run["run_id"])
        wanted = 0 if run["problem"] else int(run["n_frames"])
        row = known.get(run_id)
        if row is None:
            row = known[run_id] = len(columns["run_id"])
            for name in RUN_COLUMNS:
                columns[name].append(0 if name in ("start", "n_frames") else "")
        rows.append(row)
        if run_id in is_done:
            columns["status"][row] = "done"
            continue
        for name in IDENTITY:
            columns[name][row] = run[name]
        columns["status"][row] = "planned"
        columns["reason"][row] = ""
        held = spec.aligned(columns["n_frames"][row])
        if wanted and spec.aligned(wanted) > held:
            columns["start"][row] = free
            free += spec.aligned(wanted)
            columns["n_frames"][row] = wanted
        elif wanted:
            columns["n_frames"][row] = wanted
    table = pd.DataFrame(columns, columns=RUN_COLUMNS)
    grow_group(group, frames=free, rows=len(table))
    write_table(group, "runs", table)
    plan = runs.reset_index(drop=True).copy()
    plan["row"] = rows
    plan["start"] = table["start"].to_numpy()[rows]
    plan["status"] = table["status"].to_numpy()[rows]
    return plan


def finalize(location: Location, group_name: str) -> pd.DataFrame:
    """Fold completion records into the ``runs`` table, and seal the group's metadata.

    Returns
    -------
    pd.DataFrame
        The table.
    """
    import zarr

    group = zarr.open_group(location.zarr_store(), path=group_name, mode="r+")
    table = _load(group)
    present = set(list_records(location, group_name))
    rows = {run_id: row for row, run_id in enumerate(table["run_id"])}
    folded = (table["checksum"] != "") & (table["status"] == "done")
    unfolded = table["run_id"][table["run_id"].isin(present) & ~folded]
    columns: dict[str, list] = {name: table[name].tolist() for name in RUN_COLUMNS}
    for run_id, record in read_records(location, group_name, unfolded):
        row = rows[run_id]
        columns["status"][row], columns["reason"][row] = record.status, record.reason
        if record.status == "done":
            for name in ("start", "n_frames", "checksum", "source_sha256"):
                columns[name][row] = getattr(record, name)
    table = pd.DataFrame(columns, columns=RUN_COLUMNS)
    write_table(group, "runs", table)
    seal_group(location, group_name)
    return table


def finished_runs(location: Location, group_name: str) -> set[str]:
    """Return the ids of a group's finished runs; none if there is no such group yet."""
    import zarr

    if not is_created(location, group_name):
        return set()
    group = zarr.open_group(location.zarr_store(read_only=True), path=group_name, mode="r")
    return _done(location, group_name, _load(group))


def _done(location: Location, group: str, table: pd.DataFrame) -> set[str]:
    """Return the ids of finished runs; only records that the table does not know are opened."""
    present = set(list_records(location, group))
    folded = dict(zip(table["run_id"], table["status"], strict=True))
    known = {run_id for run_id in table["run_id"] if run_id in present}
    done = {run_id for run_id in known if folded[run_id] == "done"}
    for run_id, record in read_records(location, group, known - done):
        if record.status == "done":
            done.add(run_id)
    return done


def _load(group: zarr.Group) -> pd.DataFrame:
    if "runs" not in group or "rows" not in group["runs"].attrs:
        empty = pd.DataFrame({name: pd.Series(dtype=object) for name in RUN_COLUMNS})
        return empty.astype({"tr": float, "start": int, "n_frames": int})
    return read_table(group["runs"])  # type: ignore[arg-type]
