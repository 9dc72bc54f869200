"""Atomic replacement of tables.

New tables are written beside the old ones. One atomic write of the document then puts them in
force, and the old tables are deleted. A kill before that write leaves the old tables in force, and
some unused files. A reader that misses a file reads the document again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.documents.seal import Document, Growing, sha256, write_document
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import check_held
from fmritok.pipeline.store.tables.table import decode_table, encode_table, table_path

__all__ = ["replace_tables", "table_of"]


def replace_tables(
    location: Location,
    document: Document,
    tables: Mapping[str, pd.DataFrame],
    *,
    lengths: Mapping[str, int] | None = None,
    anew: bool = False,
) -> Document:
    """Put tables in force, and return the new document.

    Tables equal to those in force are not written.

    Parameters
    ----------
    location : Location
    document : Document
        The current document. The caller holds its group.
    tables : dict of str to pd.DataFrame
    lengths : dict of str to int, optional
        New lengths of growing arrays, which are lengthened already.
    anew : bool
        Whether to write also equal tables, for example because their files are damaged.

    Raises
    ------
    StoreError
        If the group is no longer held.
    """
    in_force: dict[str, str] = dict(document.attributes.get("tables", {}))
    before, sealed = dict(in_force), dict(document.files)
    written: dict[str, bytes] = {}
    for name, table in tables.items():
        files = encode_table(table)
        path = table_path(name, files)
        if path == in_force.get(name) and not anew:
            continue
        written |= {document.key(f"{path}/{key}"): data for key, data in files.items()}
        old = in_force.get(name)
        sealed = {key: digest for key, digest in sealed.items() if not _is_below(key, old)}
        sealed |= {f"{path}/{key}": sha256(data) for key, data in files.items()}
        in_force[name] = path
    growing = {
        name: Growing((lengths or {}).get(name, one.length), one.sha256)
        for name, one in document.growing.items()
    }
    location.write_many(written)
    if in_force == before and growing == document.growing:
        return document
    check_held(location, document.path)
    changed = replace(
        document,
        attributes={**document.attributes, "tables": in_force},
        files=sealed,
        growing=growing,
    )
    write_document(location, changed)
    for name, path in in_force.items():
        if path != before.get(name):
            _remove_others(location, document, name, keep=path)
    return changed


def table_of(
    location: Location, document: Document, files: Mapping[str, bytes], name: str
) -> pd.DataFrame | None:
    """Decode the table in force from the sealed files of its group; None if there is none yet.

    Raises
    ------
    StoreError
        If its sealed files are not a table.
    """
    path = document.attributes.get("tables", {}).get(name)
    if path is None:
        return None
    own = {key[len(path) + 1 :]: data for key, data in files.items() if _is_below(key, path)}
    try:
        return decode_table(own)
    except Exception as error:  # zarr raises many exceptions
        raise StoreError(
            expected("Table", f"{location}/{document.key(path)}", "one that fmritok wrote",
                     f"{type(error).__name__}: {error}", "Restore the store from a copy.")
        ) from error  # fmt: skip


def _remove_others(location: Location, document: Document, name: str, keep: str) -> None:
    for version in location.list_dir(document.key(name)):
        path = f"{name}/{version}"
        if version != "zarr.json" and path != keep:
            location.remove_tree(document.key(path))


def _is_below(key: str, folder: str | None) -> bool:
    return folder is not None and key.startswith(f"{folder}/")
