"""The ``runs`` and ``chunks`` tables of a group, and their update from completion records.

``chunks`` has the crc32c of every chunk of ``tokens``, in order. With it, readers detect an intact
chunk of another run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.group import GroupState
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import COLUMNS, LATER, SOURCE, crc_column
from fmritok.pipeline.store.records import RunRecord, list_records, read_records
from fmritok.quantities import counted

__all__ = ["RunsTable", "current_tables", "empty_tables"]

_MISSING: dict[str, Any] = {"text": "", "integer": pd.NA, "number": np.nan}
_DEFAULTS = {"start": 0, "n_frames": 0, "tr": np.nan} | {
    name: _MISSING[kind] for name, kind in (SOURCE | LATER).items()
}


def empty_tables(per_run: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Return the tables of a group without runs, for the given per-run arrays."""
    return RunsTable.empty(per_run, 1).tables()


@dataclass
class RunsTable:
    """Mutable tables of a group, with columns as lists.

    Attributes
    ----------
    columns : dict of str to list
        Columns of the ``runs`` table.
    crcs : np.ndarray of shape (n_chunks,), uint32
        Column of the ``chunks`` table.
    chunk_frames : int
    per_run : tuple of str
        Arrays with one row per run.
    """

    columns: dict[str, list[Any]]
    crcs: npt.NDArray[np.uint32]
    chunk_frames: int
    per_run: tuple[str, ...]

    @classmethod
    def of(cls, state: GroupState) -> RunsTable:
        """Copy the tables in force."""
        table = state.table("runs")
        crcs = state.table("chunks")["crc32c"].to_numpy().astype(np.uint32)
        columns = {name: table[name].tolist() for name in table.columns}
        per_run = tuple(name for name in state.document.growing if name != "tokens")
        return cls(columns, crcs, int(state.contract["chunk_frames"]), per_run)

    @classmethod
    def empty(cls, per_run: Iterable[str], chunk_frames: int) -> RunsTable:
        """Create the tables of a group without runs."""
        names = tuple(per_run)
        columns: dict[str, list[Any]] = {n: [] for n in (*COLUMNS, *map(crc_column, names))}
        return cls(columns, np.empty(0, np.uint32), chunk_frames, names)

    def __len__(self) -> int:
        return len(self.columns["run_id"])

    def rows(self) -> dict[str, int]:
        """Return the row number of each run id."""
        return {run_id: row for row, run_id in enumerate(self.columns["run_id"])}

    def append(self, run_id: str) -> int:
        """Add a row, and return its number."""
        for name, values in self.columns.items():
            values.append(_DEFAULTS.get(name, pd.NA if name.endswith("_crc32c") else ""))
        self.columns["run_id"][-1] = run_id
        return len(self) - 1

    def reset(self, row: int) -> None:
        """Set a run to ``planned``. It keeps its frames."""
        for name in ("reason", "checksum", "source_sha256"):
            self.columns[name][row] = ""
        for name in self.per_run:
            self.columns[crc_column(name)][row] = pd.NA
        self.columns["status"][row] = "planned"

    def fold(self, location: Location, group: str, recorded: set[str]) -> set[str]:
        """Update the table from completion records, and return the ids of finished runs.

        Only records of planned runs are read. The others are in the table already.

        Parameters
        ----------
        location, group : Location, str
        recorded : set of str
            Runs with a record.

        Raises
        ------
        StoreError
            If a record contradicts the frames assigned to its run.
        """
        rows, status = self.rows(), self.columns["status"]
        done = {run_id for run_id, row in rows.items() if status[row] == "done"} & recorded
        planned = {run_id for run_id, row in rows.items() if status[row] == "planned"}
        for record in read_records(location, group, sorted(planned & recorded)):
            run_id = record.run_id
            self.take(rows[run_id], record, f"{group} of {location}")
            if record.status == "done":
                done.add(run_id)
        return done

    def take(self, row: int, record: RunRecord, where: str) -> None:
        """Update the table from one record."""
        columns = self.columns
        columns["status"][row], columns["reason"][row] = record.status, record.reason
        if record.status != "done":
            return
        planned = (columns["start"][row], columns["n_frames"][row])
        odd = record.misfit(*planned, self.chunk_frames, self.per_run)
        if odd:
            raise StoreError(
                expected("Completion record of run", f"{record.run_id} in group {where}",
                         f"{counted(planned[1], 'frame')} from {planned[0]} on, as planned", odd,
                         "Run `fmritok verify --drop`, then the same `fmritok tokenize`.")
            )  # fmt: skip
        for name, value in record.columns.items():
            columns[name][row] = value
        columns["checksum"][row] = record.checksum
        columns["source_sha256"][row] = record.source_sha256
        for name in self.per_run:
            columns[crc_column(name)][row] = record.crcs(name)[0]
        first = record.start // self.chunk_frames
        crcs = record.crcs("tokens")
        self.lengthen(first + len(crcs))
        self.crcs[first : first + len(crcs)] = crcs

    def lengthen(self, n_chunks: int) -> None:
        """Lengthen the ``chunks`` table."""
        if n_chunks > len(self.crcs):
            longer = np.zeros(n_chunks, np.uint32)
            longer[: len(self.crcs)] = self.crcs
            self.crcs = longer

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables in their stored form."""
        runs = pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in self.columns.items()})
        integers = [name for name, kind in SOURCE.items() if kind == "integer"]
        integers += [crc_column(name) for name in self.per_run]
        types = dict.fromkeys(integers, "Int64") | {"start": "int64", "n_frames": "int64"}
        types |= dict.fromkeys(("tr", "source_tr", "motion"), "float64")
        return {
            "runs": runs.astype(types),
            "chunks": pd.DataFrame({"crc32c": self.crcs.astype(np.int64)}),
        }


def current_tables(state: GroupState) -> tuple[pd.DataFrame, dict[str, npt.NDArray[np.uint32]]]:
    """Return the runs table, updated with records newer than the table.

    Returns
    -------
    table : pd.DataFrame
        The ``runs`` table with a column ``row``, without the checksums of rows.
    crcs : dict of str to np.ndarray of shape (n_chunks,) or (n_runs,), uint32
        Expected crc32c of each chunk, by array.
    """
    location, name = state.location, state.document.path
    present = set(list_records(location, name))
    runs, chunks = state.table("runs"), state.table("chunks")
    planned = runs["run_id"][runs["status"] == "planned"]
    if planned.isin(present).any():
        table = RunsTable.of(state)
        table.fold(location, name, present)
        runs, chunks = table.tables().values()
    lost = (runs["status"] == "done") & ~runs["run_id"].isin(present)
    runs.loc[lost, "status"] = "planned"
    crcs = {"tokens": chunks["crc32c"].to_numpy().astype(np.uint32)}
    for array in state.document.growing:
        if array != "tokens":
            column = runs.pop(crc_column(array))
            crcs[array] = column.fillna(0).to_numpy(np.int64).astype(np.uint32)
    runs["row"] = np.arange(len(runs))
    return runs, crcs
