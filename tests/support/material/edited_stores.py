"""Stores that somebody edited, with valid seals, and their use by every command."""

from __future__ import annotations

import copy
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stores import write_store
from tiny import fmritok

from fmritok.errors import StoreError
from fmritok.pipeline.store.documents.seal import canonical_json, growing_digest, sha256
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.pipeline.store.tables.table import decode_table, encode_table, table_path
from fmritok.pipeline.store.verify import drop_runs, verify_store

#: What a command may take for a store of a few kilobytes.
MOST_BYTES = 64 * 2**20


class Files(dict[str, bytes]):
    """The files of a store, by key."""

    def __repr__(self) -> str:
        return f"{len(self)} files"

    def __or__(self, other: dict[str, bytes]) -> Files:
        return Files({**self, **other})


def put(place: Path, files: Files) -> Location:
    shutil.rmtree(place, ignore_errors=True)
    for key, data in files.items():
        path = place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Location(place)


def resealed(tree: dict[str, Any]) -> bytes:
    """Return a document whose digest is that of what it says now."""
    tree = copy.deepcopy(tree)
    try:
        tree["attributes"]["seal"].pop("digest", None)
        tree["attributes"]["seal"]["digest"] = sha256(canonical_json(tree))
    except (KeyError, TypeError, AttributeError):
        pass
    return canonical_json(tree)


def with_files(
    files: Files, group: str, changed: dict[str, bytes], tables: dict[str, str] | None = None
):
    """Put files into a group, and seal them."""
    prefix = f"{group}/" if group else ""
    tree = json.loads(files[f"{prefix}zarr.json"])
    seal = tree["attributes"]["seal"]
    for key, data in changed.items():
        name, _, last = key.partition("/")
        if name in seal["growing"] and last == "zarr.json":
            seal["growing"][name]["sha256"] = growing_digest(json.loads(data))
        else:
            seal["files"][key] = sha256(data)
    for name, path in (tables or {}).items():
        old = tree["attributes"]["tables"][name]
        for key in [k for k in seal["files"] if k.startswith(f"{old}/") and old != path]:
            del seal["files"][key]
        tree["attributes"]["tables"][name] = path
    new = {f"{prefix}{key}": data for key, data in changed.items()}
    return files | new | {f"{prefix}zarr.json": resealed(tree)}


def table_files(files: Files, group: str, name: str) -> dict[str, bytes]:
    prefix = f"{group}/" if group else ""
    path = json.loads(files[f"{prefix}zarr.json"])["attributes"]["tables"][name]
    start = f"{prefix}{path}/"
    return {key[len(start) :]: data for key, data in files.items() if key.startswith(start)}


def with_table(files: Files, group: str, name: str, change: Callable[[pd.DataFrame], Any]) -> Files:
    """Replace a table by one that somebody changed."""
    table = decode_table(table_files(files, group, name))
    changed = change(table)
    made = encode_table(table if changed is None else changed)
    path = table_path(name, made)
    return with_files(files, group, {f"{path}/{k}": v for k, v in made.items()}, {name: path})


def with_record(files: Files, run_id: str, change: Callable[[dict[str, Any]], Any]) -> Files:
    key = f"vae/records/{run_id}/zarr.json"
    tree = json.loads(files[key])
    body = tree["attributes"]
    body.pop("digest")
    change(body)
    body["digest"] = sha256(canonical_json(body))
    return files | {key: canonical_json(tree)}


def use(location: Location) -> dict[str, str]:
    """Read, verify and mend a store; return what each step refused."""

    def read() -> None:
        store = TokenStore(location.url)
        for name in store.groups:
            group = store.group(name)
            for run_id in group.runs["run_id"]:
                assert np.isfinite(group.values(run_id)).all()
            assert group.provenance is not None
        _ = store.phenotypes, store.phenotype_columns, store.events

    def verify() -> None:
        found = list(verify_store(location))
        drop_runs(location, found)

    refused = {}
    for step in (read, verify, read):
        try:
            step()
        except StoreError as error:
            refused[step.__name__] = str(error)
    return refused


def check(location: Location, *, claims_size: bool = True) -> dict[str, str]:
    """Use a store within bounds; memory is traced, which is slow, where the store claims sizes.

    ``inspect`` reads it in the same way, and is not traced.
    """
    if claims_size:
        tracemalloc.start()
    try:
        refused = use(location)
        if claims_size:
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    result = fmritok("inspect", "--store", location.url)
    assert result.exit_code in (0, 1), (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    outside = Path(location.url).parent
    assert (outside / "precious").read_text() == "mine"
    assert {p.name for p in outside.iterdir()} == {"precious", "tokens.zarr"}
    for sentence in refused.values():
        assert "expected" in sentence
        assert len(sentence) < 5000
    return refused


def sound_store(folder: Path) -> Files:
    """Return the files of a small store with two runs, phenotypes and events."""
    location = Location(folder / "made" / "tokens.zarr")
    ids = list(write_store(location, [10, 40], n_tokens=2, dim=3))
    phenotypes = pd.DataFrame({"dataset": "demo", "subject": ["100", "101"], "session": ""})
    columns = pd.DataFrame({"dataset": ["demo"], "column": "age", "dtype": "float64", "unit": "a",
                            "source": "x", "meaning": "age"})  # fmt: skip
    events = pd.DataFrame({"run_id": ids, "onset": 1.0, "duration": 2.0, "trial_type": "left"})
    write_annotations(location, {"phenotypes": phenotypes.assign(age=[20.5, np.nan]),
                                 "phenotype_columns": columns, "events": events})  # fmt: skip
    return Files({key: location.read(key) for key in location.find("")})
