"""Read finished runs of a token store. Imports no writing code; training needs only this module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import StoreError, expected, wrong_usage
from fmritok.pipeline.store.documents.root import group_names, read_root
from fmritok.pipeline.store.group import read_group
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import dequantize
from fmritok.pipeline.store.tables.annotations import read_annotation
from fmritok.pipeline.store.tables.runs_table import current_tables
from fmritok.quantities import counted

__all__ = ["RunStatistics", "TokenGroup", "TokenStore", "open_store"]


def open_store(url: str | PathLike[str]) -> TokenStore:
    """Open a token store for reading; see :class:`TokenStore` for parameter and errors."""
    return TokenStore(url)


@dataclass(frozen=True)
class RunStatistics:
    """Statistics of the tokens of one run over its frames.

    Attributes
    ----------
    mean, std : np.ndarray of shape (n_tokens, dim), float32
    scale : np.ndarray of shape (n_tokens, dim), float32, or None
        Value of one integer step; None for float16.
    """

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32] | None


class TokenGroup:
    """One token group of a store. Picklable: every process opens its own files.

    Attributes
    ----------
    name : str
    runs : pd.DataFrame
        Finished runs, one row each: ``run_id, dataset, subject, session, task, site, family, tr``
        (seconds), ``start, n_frames, row`` and more.
    contract : dict
        Store dtype, shapes and provenance, recorded by the writer.
    n_tokens, dim : int
    precision : str
    """

    def __init__(self, location: Location, name: str) -> None:
        self.location = location
        self.name = name
        state = read_group(location, name)
        self.contract: dict[str, Any] = state.contract
        self.notes: Mapping[str, Any] = dict(state.document.attributes["notes"])
        self.n_tokens = int(self.contract["tokens_per_frame"])
        self.dim = int(self.contract["dim"])
        self.precision = str(self.contract["precision"])
        self._arrays = state.direct()
        self.all_runs, self._crcs = current_tables(state)
        self._static = state.static()

    def __len__(self) -> int:
        """Return the number of finished runs."""
        return len(self.runs)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of the finished runs, in the order of :attr:`runs`."""
        return iter(self.runs["run_id"].tolist())

    def __contains__(self, run_id: object) -> bool:
        return bool((self.runs["run_id"] == run_id).any())

    def __getitem__(self, run_id: str) -> npt.NDArray[np.float32]:
        """Return the values of a run, shape (n_frames, n_tokens, dim); see :meth:`values`."""
        return self.values(run_id)

    def __repr__(self) -> str:
        frames = int(self.runs["n_frames"].sum())
        return (
            f"TokenGroup({self.name!r}: {counted(len(self), 'run')}, "
            f"{counted(frames, 'frame')} of {counted(self.n_tokens, 'token')} of "
            f"{counted(self.dim, 'feature')}, {self.precision})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Loader workers only read frames. Tables are not pickled; they are read again if needed.
        left = ("all_runs", "runs", "_static")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    @cached_property
    def all_runs(self) -> pd.DataFrame:
        """Table of all runs, including planned and failed ones."""
        return current_tables(read_group(self.location, self.name))[0]

    @cached_property
    def _static(self) -> dict[str, npt.NDArray[Any]]:
        return read_group(self.location, self.name).static()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Table of the finished runs."""
        done = self.all_runs["status"] == "done"
        return self.all_runs[done].reset_index(drop=True)

    @property
    def provenance(self) -> dict[str, Any]:
        """Settings that the tokens were made with."""
        return dict(self.contract["provenance"])

    @property
    def static(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays shared by all runs, such as the coordinates of tokens."""
        return dict(self._static)

    @property
    def run_arrays(self) -> list[str]:
        """Names of the tokenizer's arrays with one row per run."""
        return [name for name in self._arrays if name not in ("tokens", "mean", "std", "scale")]

    def read(
        self, start: int, n_frames: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Return stored tokens of consecutive frames.

        Parameters
        ----------
        start : int
            Frame in the group's array: the run's ``start`` plus the frame in the run.
        n_frames : int
        out : np.ndarray of shape (n_frames, n_tokens, dim), int8 or float16, optional
            Output buffer in C order. Default: a new array.

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), int8 or float16
        """
        return self._arrays["tokens"].read(start, n_frames, out, self._crcs["tokens"])

    def statistics(self, row: int) -> RunStatistics:
        """Return the statistics of the run in the given row of the ``runs`` table."""
        scale = self.array("scale", row) if self.precision == "int8" else None
        return RunStatistics(self.array("mean", row), self.array("std", row), scale)

    def values(
        self, run_id: str, first: int = 0, n_frames: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the tokens of one run as float32 values.

        Parameters
        ----------
        run_id : str
        first : int
            First frame in the run.
        n_frames : int, optional
            Default: up to the end of the run.

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), float32

        Raises
        ------
        StoreError
            If there is no such finished run, or it has not all of these frames.
        """
        run = self.run(run_id)
        there = int(run["n_frames"])
        length = there - first if n_frames is None else n_frames
        if not (0 <= first <= there and 0 <= length <= there - first):
            raise StoreError(
                expected("Frames", f"of run {run_id}", f"some of its {there}",
                         f"{length} from {first} on", "Ask for fewer.")
            )  # fmt: skip
        run_statistics = self.statistics(int(run["row"]))
        tokens = self.read(int(run["start"]) + first, length)
        return dequantize(tokens, run_statistics.mean, run_statistics.scale)

    def array(self, name: str, row: int | None = None) -> npt.NDArray[Any]:
        """Return a static array, or the row of one run in a per-run array.

        Raises
        ------
        StoreError
            If the file of the row is absent, damaged, or belongs to another run.
        """
        if row is None:
            return self._static[name]
        return self._arrays[name].read(row, 1, crcs=self._crcs[name])[0]

    def run(self, run_id: str) -> pd.Series:
        """Return the row of a finished run in the runs table.

        Raises
        ------
        StoreError
            If there is no such finished run.
        """
        found = self.runs.index[self.runs["run_id"] == run_id]
        if not len(found):
            is_known = bool((self.all_runs["run_id"] == run_id).any())
            missing = StoreError(
                expected("Run", f"{run_id} in group {self.name} of {self.location}",
                         "a finished run", "one that is not" if is_known else "none of that id",
                         "List the runs with `fmritok inspect --runs`.")
            )  # fmt: skip
            raise missing if is_known else wrong_usage(missing)
        return self.runs.loc[found[0]]


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

    def __init__(self, url: str | PathLike[str]) -> None:
        self.location = Location(url)
        #: Names of the token groups.
        self.groups = tuple(group_names(read_root(self.location)))

    def __getitem__(self, name: str) -> TokenGroup:
        """Open a token group by its name."""
        return self.group(name)

    def __contains__(self, name: object) -> bool:
        return name in self.groups

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the token groups."""
        return iter(self.groups)

    def __repr__(self) -> str:
        lines = [f"TokenStore({str(self.location)!r})"]
        lines += [f"  {self.group(name)!r}" for name in self.groups]
        columns = counted(len(self.phenotype_columns), "column")
        subjects = counted(self.phenotypes["subject"].nunique(), "subject")
        lines += [f"  phenotypes: {columns} of {subjects}"]
        lines += [f"  events: {len(self.events):,}"]
        return "\n".join(lines)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Finished runs of all groups, one row per run and group."""
        tables = [self.group(name).runs.assign(group=name) for name in self.groups]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"group": []})

    def group(self, name: str | None = None) -> TokenGroup:
        """Open a token group. The name is optional if there is only one.

        Raises
        ------
        StoreError
            If there is no such group, or there are several and no name is given.
        """
        if name is None and len(self.groups) == 1:
            name = self.groups[0]
        if name is None or name not in self.groups:
            raise wrong_usage(StoreError(
                expected("Token group", f"of {self.location}",
                         f"one of {', '.join(self.groups) or 'no finished group yet'}",
                         name or "no choice", "Give the name of one (--group NAME).")
            ))  # fmt: skip
        return TokenGroup(self.location, name)

    @cached_property
    def phenotypes(self) -> pd.DataFrame:
        """Phenotypes of subjects: ``dataset, subject, session`` and typed columns.

        ``session`` is empty for values that do not depend on it. The table may be empty.
        """
        return read_annotation(self.location, "phenotypes")

    @cached_property
    def phenotype_columns(self) -> pd.DataFrame:
        """Description of the phenotypes: ``dataset, column, dtype, unit, source, meaning``."""
        return read_annotation(self.location, "phenotype_columns")

    @cached_property
    def events(self) -> pd.DataFrame:
        """Events during runs: ``run_id, onset, duration, trial_type``; seconds."""
        return read_annotation(self.location, "events")
