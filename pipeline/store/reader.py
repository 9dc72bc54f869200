"""Read finished runs of a token store: all that training needs, and nothing of what wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.pipeline.errors import StoreError, expected
from fmritok.pipeline.store.annotations import read_annotation
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import dequantize
from fmritok.pipeline.store.records import list_records, read_records
from fmritok.pipeline.store.schema import group_names, open_root
from fmritok.pipeline.store.shards import DirectArray, open_direct
from fmritok.pipeline.store.table import read_table

if TYPE_CHECKING:
    import zarr

__all__ = ["RunMoments", "TokenGroup", "TokenStore"]


@dataclass(frozen=True)
class RunMoments:
    """Statistics of one run's tokens over its frames.

    Attributes
    ----------
    mean, std : np.ndarray of shape (n_tokens, dim), float32
    scale : np.ndarray of shape (n_tokens, dim), float32, or None
        Step of the stored integers; None where tokens are stored as float16.
    """

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32] | None


class TokenGroup:
    """One token group of a store; picklable, opened anew in every process that reads it.

    Attributes
    ----------
    name : str
    runs : pd.DataFrame
        Finished runs only, one row each: ``run_id, dataset, subject, session, task, site,
        family, tr`` (seconds), ``start, n_frames, row`` and more.
    contract : dict
        Precision, shapes and provenance, as the writer recorded them.
    n_tokens, dim : int
    precision : str
    """

    def __init__(self, location: Location, name: str) -> None:
        self.location = location
        self.name = name
        self._opened: tuple[int, zarr.Group] | None = None
        self._direct: dict[str, DirectArray | None] = {}
        group = self._group()
        if not _is_readable(group):
            raise StoreError(
                expected("Token group", f"{name} of {location}", "one with a table of runs",
                         "a group that is being created", "Wait, or tokenize again.")
            )  # fmt: skip
        contract: Any = group.attrs["contract"]
        self.contract: dict[str, Any] = dict(contract)
        self.notes: Mapping[str, Any] = dict(group.attrs.get("notes", {}))  # type: ignore[arg-type]
        self.n_tokens = int(self.contract["tokens_per_frame"])
        self.dim = int(self.contract["dim"])
        self.precision = str(self.contract["precision"])
        self.all_runs  # noqa: B018  a damaged table is an error here and now

    def __getstate__(self) -> dict[str, Any]:
        # Loader workers read frames, and get no tables: whoever asks for one there reads it anew.
        tables = ("all_runs", "runs")
        state = {name: value for name, value in self.__dict__.items() if name not in tables}
        return {**state, "_opened": None}

    @cached_property
    def all_runs(self) -> pd.DataFrame:
        """The table of all runs, also of those that are planned or failed."""
        return self._current_runs()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The finished runs."""
        done = self.all_runs["status"] == "done"
        return self.all_runs[done].reset_index(drop=True)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the tokens were made with."""
        return dict(self.contract["provenance"])

    def read(
        self, start: int, n_frames: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Return stored tokens of consecutive frames.

        Parameters
        ----------
        start : int
            Frame of the group's array: the run's ``start`` plus the frame within the run.
        n_frames : int
        out : np.ndarray of shape (n_frames, n_tokens, dim), int8 or float16, optional
            Where to put them, in C order; by default a new array.

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), int8 or float16
        """
        return self._rows("tokens", start, n_frames, out)

    def moments(self, row: int) -> RunMoments:
        """Return the statistics of the run in the given row of the ``runs`` table."""
        scale = self.array("scale", row) if self.precision == "int8" else None
        return RunMoments(self.array("mean", row), self.array("std", row), scale)

    def values(
        self, run_id: str, first: int = 0, n_frames: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return one run's tokens as float32 values.

        Parameters
        ----------
        run_id : str
        first : int
            First frame within the run.
        n_frames : int, optional
            Default: to the end of the run.

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), float32
        """
        run = self.run(run_id)
        length = int(run["n_frames"]) - first if n_frames is None else n_frames
        moments = self.moments(int(run["row"]))
        return dequantize(self.read(int(run["start"]) + first, length), moments.mean, moments.scale)

    def array(self, name: str, row: int | None = None) -> npt.NDArray[Any]:
        """Return a static array, or one run's row of a per-run array."""
        if row is not None:
            return self._rows(name, row, 1)[0]
        return np.asarray(self._group()[name][:])  # type: ignore[index]

    def run(self, run_id: str) -> pd.Series:
        """Return a finished run's row of the table.

        Raises
        ------
        StoreError
            If there is no such finished run.
        """
        found = self.runs.index[self.runs["run_id"] == run_id]
        if not len(found):
            raise StoreError(
                expected("Run", f"{run_id} in group {self.name} of {self.location}",
                         "a finished run", "none of that id",
                         "List the runs with `fmritok inspect`.")
            )  # fmt: skip
        return self.runs.loc[found[0]]

    def _rows(
        self, name: str, start: int, n_rows: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Read rows of an array from its files; with zarr-python where that cannot be."""
        if name not in self._direct:
            self._direct[name] = open_direct(self.location, f"{self.name}/{name}")
        direct = self._direct[name]
        if direct is not None and 0 <= start and start + n_rows <= direct.shape[0]:
            return direct.read(start, n_rows, out)
        rows = np.asarray(self._group()[name][start : start + n_rows])  # type: ignore[index]
        if out is None:
            return rows
        out[:] = rows
        return out

    def _group(self) -> zarr.Group:
        # A worker process must not use what its parent opened: zarr runs an event loop in a thread.
        if self._opened is None or self._opened[0] != os.getpid():
            import zarr

            group = zarr.open_group(
                self.location.zarr_store(read_only=True), path=self.name, mode="r"
            )
            self._opened = (os.getpid(), group)
        return self._opened[1]

    def _current_runs(self) -> pd.DataFrame:
        """Return the runs table with the records that finished since it was folded."""
        group = self._group()
        table = read_table(group["runs"])  # type: ignore[arg-type]
        table["row"] = np.arange(len(table))
        present = set(list_records(self.location, self.name))
        done = table["status"] == "done"
        table.loc[done & ~table["run_id"].isin(present), "status"] = "planned"
        news = table["run_id"][~done & table["run_id"].isin(present)]
        rows = dict(zip(news, news.index, strict=True))
        for run_id, record in read_records(self.location, self.name, news):
            row = rows[run_id]
            table.at[row, "status"], table.at[row, "reason"] = record.status, record.reason
            if record.status == "done":
                table.at[row, "start"] = record.start
                table.at[row, "n_frames"] = record.n_frames
        return table


class TokenStore:
    """A token store opened for reading.

    Parameters
    ----------
    url : str or os.PathLike
        A local path or an fsspec URL.

    Raises
    ------
    StoreError
        If there is no token store.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.location = Location(url)
        root = open_root(self.location)
        self.groups = tuple(n for n in group_names(self.location) if _is_readable(root[n]))  # type: ignore[arg-type]

    def group(self, name: str | None = None) -> TokenGroup:
        """Open a token group; without a name, the only one.

        Raises
        ------
        StoreError
            If there is no such group, or several and no name was given.
        """
        if name is None and len(self.groups) == 1:
            name = self.groups[0]
        if name is None or name not in self.groups:
            raise StoreError(
                expected("Token group", f"of {self.location}",
                         f"one of {', '.join(self.groups) or 'no finished group yet'}",
                         name or "no choice", "Choose one with --group NAME.")
            )  # fmt: skip
        return TokenGroup(self.location, name)

    def phenotypes(self) -> pd.DataFrame:
        """Return the subjects' table: ``dataset, subject, session`` and typed columns.

        ``session`` is empty where a value does not depend on it. May be empty.
        """
        return read_annotation(self.location, "phenotypes")

    def phenotype_columns(self) -> pd.DataFrame:
        """Return what the columns are: ``dataset, column, dtype, unit, source, meaning``."""
        return read_annotation(self.location, "phenotype_columns")

    def events(self) -> pd.DataFrame:
        """Return what happened during runs: ``run_id, onset, duration, trial_type``, seconds."""
        return read_annotation(self.location, "events")


def _is_readable(group: zarr.Group) -> bool:
    """Tell whether a group's creation is over and its table of runs is there."""
    return "contract" in group.attrs and "runs" in group and "rows" in group["runs"].attrs
