"""A token group as a whole: made once, opened with its seal checked, lengthened."""

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
from fmritok.pipeline.store.names import GROUP_TABLES, check_group_name, crc_column
from fmritok.pipeline.store.schema import GroupSpec, blank_group
from fmritok.pipeline.store.tables.runs_check import check_static, check_tables
from fmritok.pipeline.store.tables.switch import replace_tables, table_of

__all__ = ["GroupState", "create_group", "is_created", "lengthen", "read_group"]


@dataclass(frozen=True)
class GroupState:
    """What a group's document and its sealed files say.

    Attributes
    ----------
    location : Location
    document : Document
    files : dict of str to bytes
        The sealed files, by path below the group.
    """

    location: Location
    document: Document
    files: Mapping[str, bytes]

    @property
    def contract(self) -> dict[str, Any]:
        """What must be equal for runs to share the group."""
        return dict(self.document.attributes["contract"])

    @property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """Metadata of ``tokens`` and of the arrays with one row per run."""
        return {name: json.loads(self.files[f"{name}/zarr.json"]) for name in self.document.growing}

    def direct(self) -> dict[str, DirectArray]:
        """Return ``tokens`` and the arrays with one row per run, compared with the contract.

        Raises
        ------
        StoreError
            If one is laid out in another way, or has other values than the contract says.
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
        """Return the arrays that a reader needs once.

        Raises
        ------
        StoreError
            If their files are sealed, and are not what fmritok writes.
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
            check_tables(
                runs, chunks,
                per_run=[crc_column(name) for name in growing if name != "tokens"],
                contract=self.contract, n_frames=growing["tokens"]["shape"][0],
            )  # fmt: skip
        except ValueError as error:
            raise StoreError(
                expected("Table", f"{location}/{document.key('runs')}", "valid runs", error,
                         "Run `fmritok verify --drop`, which makes it again.")
            ) from error  # fmt: skip
        return {"runs": runs, "chunks": chunks}

    def table(self, name: str) -> pd.DataFrame:
        """Return a table in force; it may be changed.

        Raises
        ------
        StoreError
            If it is not there, or says what cannot be.
        """
        return self._tables[name].copy()


def read_group(location: Location, name: str) -> GroupState:
    """Open a token group, and check its seal.

    Raises
    ------
    StoreError
        If there is none of that name, or any of its metadata, tables and static arrays is damaged.
    """
    check_group_name(name)
    if not exists_document(location, name):
        is_lost = name in group_names(read_root(location))
        raise StoreError(
            expected("Token group", f"{name} of {location}",
                     "a complete group",
                     "none, although the store lists it" if is_lost else "none of that name",
                     "Restore it from a copy; `fmritok verify --drop` forgets it." if is_lost else
                     "List the groups with `fmritok inspect`, or tokenize again.")
        )  # fmt: skip
    return GroupState(location, *read_sealed(location, name))


def is_created(location: Location, name: str) -> bool:
    """Tell whether a group is complete. An incomplete one is created again."""
    return exists_document(location, name)


def create_group(location: Location, spec: GroupSpec, tables: Mapping[str, pd.DataFrame]) -> None:
    """Make a token group, or make sure that the one that is there has the same contract.

    Parameters
    ----------
    location : Location
    spec : GroupSpec
    tables : dict of str to pd.DataFrame
        Its first tables.

    Raises
    ------
    ProvenanceMismatchError
        If the group exists with another contract; the first differing field is named.
    StoreError
        If the store must have the group, and it is gone.
    """
    root = create_root(location)
    if exists_document(location, spec.name):
        _refuse_mix(location, spec, read_document(location, spec.name))
    elif spec.name in group_names(root):
        read_group(location, spec.name)  # it says that the group is gone
    else:
        _create(location, spec, tables)
    list_group(location, spec.name)


def lengthen(location: Location, document: Document, *, frames: int, rows: int) -> dict[str, int]:
    """Lengthen the arrays of a group; nothing that is there is rewritten, and nothing shrinks.

    Returns
    -------
    dict of str to int
        The length that the document has to name, by array.
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
    """Write everything that a group consists of, and its document last."""
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


def _refuse_mix(location: Location, spec: GroupSpec, document: Document) -> None:
    difference = first_difference(document.attributes["contract"], spec.contract())
    if difference is not None:
        name, theirs, ours = difference
        raise ProvenanceMismatchError(
            expected(f"Token group {spec.name} of", location,
                     f"{name} = {theirs!r} (as in the store)", repr(ours),
                     "Use the same options, or write another group with --group NAME.")
        )  # fmt: skip
