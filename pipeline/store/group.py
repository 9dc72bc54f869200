"""Token groups: create one, open it with its seal checked, lengthen its arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import ProvenanceMismatchError, StoreError, expected
from fmritok.pipeline.store.chunks.arrays import decode_arrays
from fmritok.pipeline.store.chunks.layout import parse_direct
from fmritok.pipeline.store.chunks.shards import DirectArray
from fmritok.pipeline.store.documents.difference import first_difference
from fmritok.pipeline.store.documents.root import create_root, group_names, list_group, read_root
from fmritok.pipeline.store.documents.seal import (
    Document,
    Growing,
    canonical_json,
    exists_document,
    growing_digest,
    read_document,
    read_sealed,
    sha256,
    zarr_group,
)
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import GROUP_TABLES, LATER, check_group_name, crc_column
from fmritok.pipeline.store.schema import GroupSpec, blank_group
from fmritok.pipeline.store.tables.runs_check import check_static, check_tables
from fmritok.pipeline.store.tables.switch import replace_tables, table_of

__all__ = [
    "GroupState", "check_contract", "create_group", "is_created", "lengthen", "read_group",
]  # fmt: skip


@dataclass(frozen=True)
class GroupState:
    """Document and sealed files of a token group.

    Attributes
    ----------
    location : Location
    document : Document
    files : dict of str to bytes
        Sealed files by path below the group.
    """

    location: Location
    document: Document
    files: Mapping[str, bytes]

    @property
    def contract(self) -> dict[str, Any]:
        """Settings that must be equal for all runs of the group."""
        return dict(self.document.attributes["contract"])

    @property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """Metadata of ``tokens`` and of the arrays with one row per run."""
        return {name: json.loads(self.files[f"{name}/zarr.json"]) for name in self.document.growing}

    def direct(self) -> dict[str, DirectArray]:
        """Return ``tokens`` and the arrays with one row per run, checked against the contract.

        Raises
        ------
        StoreError
            If the layout or dtype of an array differs from the contract.
        """
        contract, name = self.contract, self.document.path
        found = {
            array: parse_direct(self.location, f"{name}/{array}", metadata)
            for array, metadata in self.arrays.items()
        }
        n_tokens, dim, precision = (contract[k] for k in ("tokens_per_frame", "dim", "precision"))
        rows = {"tokens": (contract["chunk_frames"], contract["shard_frames"])}
        for array, one in found.items():
            is_moment = array in ("mean", "std", "scale")
            shape = (n_tokens, dim) if is_moment or array == "tokens" else one.shape[1:]
            dtype = np.dtype(precision if array == "tokens" else np.float32)
            wanted = (shape, dtype, *rows.get(array, (1, 1)))
            got = (one.shape[1:], one.dtype, one.chunk_rows, one.file_rows)
            if got != wanted:
                raise StoreError(
                    expected("Array", f"{array} of group {name} in {self.location}",
                             "{}, {}, chunks of {} and files of {} rows".format(*wanted),
                             "{}, {}, {} and {}".format(*got), "Restore the store from a copy.")
                )  # fmt: skip
        return found

    def static(self) -> dict[str, npt.NDArray[Any]]:
        """Return the static arrays, which are shared by all runs.

        Raises
        ------
        StoreError
            If their sealed files are invalid.
        """
        tables = tuple(f"{name}/" for name in ("records", *GROUP_TABLES))
        growing = {f"{name}/zarr.json" for name in self.document.growing}
        own = {
            key: data
            for key, data in self.files.items()
            if not key.startswith(tables) and key not in growing
        }
        try:
            arrays = decode_arrays({"zarr.json": zarr_group(), **own})[0]
            check_static(arrays, self.contract["tokens_per_frame"], self.contract["dim"])
        except ValueError as error:
            raise StoreError(
                expected("Arrays", f"of token group {self.document.path} in {self.location}",
                         "those that fmritok wrote", error, "Restore the store from a copy.")
            ) from error  # fmt: skip
        return arrays

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        location, document = self.location, self.document
        found = {name: table_of(location, document, self.files, name) for name in GROUP_TABLES}
        growing = self.arrays
        try:
            runs, chunks = (_there(name, table) for name, table in found.items())
            for name in set(LATER) - set(runs):
                runs[name] = np.nan
            check_tables(
                runs, chunks,
                per_run=[crc_column(name) for name in growing if name != "tokens"],
                contract=self.contract, n_frames=growing["tokens"]["shape"][0],
            )  # fmt: skip
        except ValueError as error:
            raise StoreError(
                expected("Table", f"{location}/{document.key('runs')}", "valid runs", error,
                         "Run `fmritok verify --drop`, which rebuilds it.")
            ) from error  # fmt: skip
        return {"runs": runs, "chunks": chunks}

    def table(self, name: str) -> pd.DataFrame:
        """Return a copy of a table in force.

        Raises
        ------
        StoreError
            If the table is missing or has invalid values.
        """
        return self._tables[name].copy()


def read_group(location: Location, name: str) -> GroupState:
    """Open a token group, and check its seal.

    Raises
    ------
    StoreError
        If there is no such group, or its metadata, a table or a static array are damaged.
    """
    check_group_name(name)
    if not exists_document(location, name):
        is_lost = name in group_names(read_root(location))
        raise StoreError(
            expected("Token group", f"{name} of {location}",
                     "a complete group",
                     "none, although the store lists it" if is_lost else "none of that name",
                     "Restore it from a copy; `fmritok verify --drop` unlists it." if is_lost else
                     "List the groups with `fmritok inspect`, or tokenize again.")
        )  # fmt: skip
    return GroupState(location, *read_sealed(location, name))


def is_created(location: Location, name: str) -> bool:
    """Whether a group is complete. An incomplete one is created again."""
    return exists_document(location, name)


def create_group(location: Location, spec: GroupSpec, tables: Mapping[str, pd.DataFrame]) -> None:
    """Create a token group, or compare the contract of an existing one.

    Parameters
    ----------
    location : Location
    spec : GroupSpec
    tables : dict of str to pd.DataFrame
        Initial tables.

    Raises
    ------
    ProvenanceMismatchError
        If the group exists with another contract. The error names the first differing field.
    StoreError
        If the root lists the group, but it is missing.
    """
    root = create_root(location)
    if exists_document(location, spec.name):
        check_contract(location, spec)
    elif spec.name in group_names(root):
        read_group(location, spec.name)  # raises: the group is gone
    else:
        _create(location, spec, tables)
    list_group(location, spec.name)


def check_contract(location: Location, spec: GroupSpec) -> None:
    """Compare the contract of a group that exists. Writes nothing.

    Raises
    ------
    ProvenanceMismatchError
        If it has another contract. The error names the first differing field.
    """
    document = read_document(location, spec.name)
    difference = first_difference(document.attributes["contract"], spec.contract())
    if difference is not None:
        name, theirs, ours = difference
        raise ProvenanceMismatchError(
            expected(f"Token group {spec.name} of", location,
                     f"{name} = {theirs!r} (as in the store)", repr(ours),
                     "Use the same options, or write another group with --group NAME.")
        )  # fmt: skip


def lengthen(location: Location, document: Document, *, frames: int, rows: int) -> dict[str, int]:
    """Lengthen the arrays of a group. Existing rows stay as they are; arrays never shrink.

    Returns
    -------
    dict of str to int
        New smallest length for the document, by array.
    """
    lengths = {}
    for name, sealed in document.growing.items():
        wanted = frames if name == "tokens" else rows
        lengths[name] = max(wanted, sealed.length)
        key = document.key(f"{name}/zarr.json")
        metadata = json.loads(location.read(key))
        if metadata["shape"][0] != lengths[name]:
            metadata["shape"][0] = lengths[name]
            location.write(key, canonical_json(metadata))
    return lengths


def _create(location: Location, spec: GroupSpec, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write all files of a group, its document last."""
    files, growing = blank_group(spec)
    written = files | {f"{name}/zarr.json": canonical_json(one) for name, one in growing.items()}
    location.write_many({f"{spec.name}/{key}": data for key, data in written.items()})
    attributes = {"notes": dict(spec.notes), "contract": spec.contract(), "tables": {}}
    blank = Document(
        spec.name,
        json.loads(json.dumps(attributes)),
        {key: sha256(data) for key, data in files.items()},
        {name: Growing(0, growing_digest(one)) for name, one in growing.items()},
    )
    replace_tables(location, blank, tables)


def _there(name: str, table: pd.DataFrame | None) -> pd.DataFrame:
    if table is None:
        raise ValueError(f"no table {name}")
    return table
