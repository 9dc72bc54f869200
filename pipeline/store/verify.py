"""Read everything back against its checksums, so that one flipped byte anywhere has a name.

Three layers cover a store. Token shards and per-run arrays carry a crc32c on every chunk and the
run's sha256 of values; a completion record carries its own digest; everything else (metadata, the
``runs`` table, static arrays) is covered by a *seal* in the attributes of the group it belongs to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fmritok.pipeline.errors import StoreError
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.records import (
    canonical_json,
    list_records,
    read_record,
    record_key,
)
from fmritok.pipeline.store.schema import first_dimension, group_names, open_root
from fmritok.pipeline.store.table import read_table
from fmritok.pipeline.store.writer import read_checksums

if TYPE_CHECKING:
    import zarr

__all__ = [
    "Damage", "drop_runs", "seal_group", "seal_root", "unseal", "unsealed_groups", "verify_store",
]  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """One thing in a store that is not what was written.

    Attributes
    ----------
    group : str
        Token group; empty for the store's root.
    run_id : str
        The damaged run; empty where metadata are damaged.
    where : str
        The object or array concerned.
    what : str
        What is wrong.
    """

    group: str
    run_id: str
    where: str
    what: str


def seal_group(location: Location, group: str) -> None:
    """Write the digests of a group's metadata, table and static arrays into its attributes."""
    _seal(location, f"{group}/zarr.json", _covered_by_group(location, group))


def seal_root(location: Location) -> None:
    """Write the digests of the root's metadata and tables into its attributes."""
    groups = set(group_names(location))
    tables = [name for name in location.list_dir() if name not in groups and name != "zarr.json"]
    _seal(location, "zarr.json", [key for name in tables for key in location.find(name)])


def unseal(group: zarr.Group) -> None:
    """Open the seal of a group, or of the root, before its metadata change."""
    if group.attrs.get("seal") is not None:
        group.attrs["seal"] = None


def unsealed_groups(location: Location) -> list[str]:
    """Return the groups whose metadata no seal covers now: a writer is at work, or was killed."""
    root = open_root(location)
    return [name for name in group_names(location) if root[name].attrs.get("seal") is None]


def drop_runs(location: Location, damage: Iterable[Damage]) -> int:
    """Delete the completion records of damaged runs, so that tokenizing again redoes just them.

    Returns
    -------
    int
        How many runs were dropped.
    """
    damaged = {(found.group, found.run_id) for found in damage if found.run_id}
    for group, run_id in damaged:
        location.remove(record_key(group, run_id))
    return len(damaged)


def verify_store(
    location: Location, progress: Callable[[int, int], None] | None = None
) -> Iterator[Damage]:
    """Read a whole store and yield whatever is damaged.

    Parameters
    ----------
    location : Location
    progress : callable, optional
        Called with (runs verified, runs in all).

    Raises
    ------
    StoreError
        If there is no store at all.
    """
    yield from _verify_seal(location, "zarr.json", "")
    root = open_root(location)
    groups = group_names(location)
    total = sum(len(list_records(location, name)) for name in groups)
    seen = 0
    for name in groups:
        yield from _verify_seal(location, f"{name}/zarr.json", name)
        rows = None
        try:
            group: zarr.Group = root[name]  # type: ignore[assignment]
            table = read_table(group["runs"])  # type: ignore[arg-type]
            rows = dict(zip(table["run_id"], range(len(table)), strict=True))
        except Exception as error:
            yield Damage(name, "", f"{name}/runs", f"cannot be read ({error})")
        if rows is not None:
            lost = table["run_id"][(table["status"] == "done")]
            present = set(list_records(location, name))
            for run_id in lost[~lost.isin(present)]:
                yield Damage(name, run_id, f"{name}/records/{run_id}",
                             "the completion record is gone")  # fmt: skip
        for run_id in list_records(location, name):
            if rows is not None:
                yield from _verify_run(location, group, name, run_id, rows.get(run_id))
            seen += 1
            if progress:
                progress(seen, total)


def _verify_run(
    location: Location, group: zarr.Group, name: str, run_id: str, row: int | None
) -> Iterator[Damage]:
    key = f"{name}/records/{run_id}/zarr.json"
    try:
        record = read_record(location, name, run_id)
    except StoreError as error:
        yield Damage(name, run_id, key, str(error))
        return
    if record is None or record.status != "done":
        return
    if row is None:
        yield Damage(name, run_id, key, "the run is missing from the runs table")
        return
    for array in record.checksums:
        try:
            found = read_checksums(
                group, row=row, start=record.start, n_frames=record.n_frames, names=[array]
            )[array]
        except Exception as error:  # a failed crc, a cut-off file, an index that points nowhere
            yield Damage(name, run_id, f"{name}/{array}",
                         f"cannot be read ({error})")  # fmt: skip
            continue
        if found != record.checksums[array]:
            yield Damage(name, run_id, f"{name}/{array}",
                         "differs from the record's checksum")  # fmt: skip


def _covered_by_group(location: Location, group: str) -> list[str]:
    """Return the keys of a group that no run's record covers."""
    import zarr

    opened = zarr.open_group(location.zarr_store(read_only=True), path=group, mode="r")
    keys = [f"{group}/records/zarr.json", *location.find(f"{group}/runs")]
    for name, array in opened.arrays():
        by_run = first_dimension(array) in ("run", "frame")
        keys += [f"{group}/{name}/zarr.json"] if by_run else location.find(f"{group}/{name}")
    return sorted(keys)


def _seal(location: Location, key: str, covered: list[str]) -> None:
    document = json.loads(location.read(key))
    files = {k: hashlib.sha256(location.read(k)).hexdigest() for k in covered}
    document["attributes"]["seal"] = {"files": files}
    document["attributes"]["seal"]["digest"] = _digest(document)
    location.write(key, canonical_json(document))


def _digest(document: dict[str, Any]) -> str:
    attributes = dict(document["attributes"])
    attributes["seal"] = {"files": attributes["seal"]["files"]}
    return hashlib.sha256(canonical_json({**document, "attributes": attributes})).hexdigest()


def _verify_seal(location: Location, key: str, group: str) -> Iterator[Damage]:
    where = f"group {group}" if group else "the root"
    try:
        data = location.read(key)
        document = json.loads(data)
        seal = document["attributes"]["seal"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
        yield Damage(group, "", key, f"metadata of {where} cannot be read ({error})")
        return
    if seal is None:  # open on purpose: the next `tokenize` closes it
        return
    try:
        intact = canonical_json(document) == data and _digest(document) == seal["digest"]
        files = dict(seal["files"])
    except (KeyError, TypeError, AttributeError, ValueError):
        intact, files = False, {}
    if not intact:
        yield Damage(group, "", key, f"metadata of {where} differ from their seal")
    for name, digest in files.items():
        try:
            found = hashlib.sha256(location.read(name)).hexdigest()
        except FileNotFoundError:
            found = ""
        if found != digest:
            yield Damage(group, "", name, "differs from its seal" if found else "is missing")
