"""Damage of a store, and the files of a group compared with its seal.

The seal (:mod:`fmritok.pipeline.store.documents.seal`) covers metadata, tables and static arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from fmritok.errors import StoreError
from fmritok.pipeline.store.documents.seal import (
    Document,
    array_document,
    exists_document,
    read_document,
    read_sealed,
    sha256,
)
from fmritok.pipeline.store.group import GroupState
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import GROUP_TABLES
from fmritok.pipeline.store.tables.annotations import annotation_of
from fmritok.pipeline.store.tables.switch import table_of

__all__ = ["Damage", "damaged_files"]


@dataclass(frozen=True)
class Damage:
    """One damaged object of a store.

    Attributes
    ----------
    group : str
        Token group; empty for the root.
    run_id : str
        Damaged run; empty for metadata.
    where : str
        Damaged object or array.
    what : str
        Kind of damage.
    is_gone : bool
        Whether a whole token group is missing.
    """

    group: str
    run_id: str
    where: str
    what: str
    is_gone: bool = False

    @property
    def is_table(self) -> bool:
        """Whether a table of a token group is damaged. It can be rebuilt from the records."""
        tables = tuple(f"{self.group}/{name}" for name in GROUP_TABLES)
        return bool(self.group) and not self.run_id and self.where.startswith(tables)


def damaged_files(location: Location, path: str) -> Iterator[Damage]:
    """Compare all files of a group with the seal."""
    if path and not exists_document(location, path):
        yield Damage(path, "", f"{path}/zarr.json", "the token group is gone", is_gone=True)
        return
    try:
        document, files = read_sealed(location, path)
    except StoreError as error:
        found = list(_each_file(location, path))
        yield from found or [Damage(path, "", f"{path}/zarr.json".lstrip("/"), str(error))]
        return
    yield from _damaged_content(location, document, files)


def _damaged_content(
    location: Location, document: Document, files: Mapping[str, bytes]
) -> Iterator[Damage]:
    """Check the content of sealed files, which may be edited and sealed again."""
    path = document.path
    state = GroupState(location, document, files)
    checks: list[tuple[str, Callable[[], object]]]
    if path:
        checks = [(n, partial(table_of, location, document, files, n)) for n in GROUP_TABLES]
        checks += [("zarr.json", state.direct), ("zarr.json", state.static)]
    else:
        tables = document.attributes["tables"]
        checks = [(n, partial(annotation_of, location, document, files, n)) for n in tables]
    is_sound = True
    for name, check in checks:
        try:
            check()
        except StoreError as error:
            is_sound = False
            yield Damage(path, "", document.key(name), str(error))
    if path and is_sound:
        try:
            state.table("runs")
        except StoreError as error:
            yield Damage(path, "", document.key("runs"), str(error))


def _each_file(location: Location, path: str) -> Iterator[Damage]:
    try:
        document = read_document(location, path)
    except StoreError as error:
        yield Damage(path, "", f"{path}/zarr.json".lstrip("/"), str(error))
        return
    for name, wanted in document.files.items():
        try:
            data = location.read_many([document.key(name)]).get(document.key(name))
        except StoreError as error:
            yield Damage(path, "", document.key(name), str(error))
            continue
        if data is None:
            yield Damage(path, "", document.key(name), "is missing")
        elif sha256(data) != wanted:
            yield Damage(path, "", document.key(name), "differs from its seal")
    for name in document.growing:
        yield from _damaged_metadata(location, document, name)


def _damaged_metadata(location: Location, document: Document, name: str) -> Iterator[Damage]:
    key = document.key(f"{name}/zarr.json")
    try:
        array_document(location, document, name, location.read_many([key]).get(key))
    except StoreError as error:
        yield Damage(document.path, "", key, str(error))
