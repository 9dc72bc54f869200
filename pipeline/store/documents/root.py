"""The root of a store: its format, its list of token groups, and its tables in force."""

from __future__ import annotations

from typing import Any

from fmritok.errors import StoreError, expected, wrong_usage
from fmritok.pipeline.store.documents.checks import parse_json
from fmritok.pipeline.store.documents.seal import (
    Document,
    read_document,
    sha256,
    write_document,
    zarr_group,
)
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.lease import DURATION_S
from fmritok.pipeline.store.locks.locking import check_held, one_writer
from fmritok.pipeline.store.names import RESERVED_NAMES

__all__ = [
    "FORMAT", "FORMAT_VERSION", "ROOT_WAIT_S", "create_root", "forget_group", "group_names",
    "list_group", "read_root",
]  # fmt: skip

FORMAT = "fmritok token store"
FORMAT_VERSION = 2
#: How long to wait for the root, s. Writers of other groups hold it while they merge tables. A
#: killed writer on another machine holds its lease until it expires.
ROOT_WAIT_S = DURATION_S + 60


def read_root(location: Location) -> Document:
    """Read the root of a store.

    Raises
    ------
    StoreError
        If there is no store, it has another format, or its metadata are damaged.
    """
    _check_format(location)
    return read_document(location, "")


def group_names(root: Document) -> list[str]:
    """Return the token groups listed in a store's root."""
    return list(root.attributes["groups"])


def create_root(location: Location) -> Document:
    """Read the root of a store, or create it in an empty location.

    Raises
    ------
    StoreError
        If the location has other content.
    """
    if not _is_there(location):
        with one_writer(location, wait_s=ROOT_WAIT_S):
            if not _is_there(location):
                _create(location)
    return read_root(location)


def list_group(location: Location, name: str) -> None:
    """Add a complete token group to the store's list of groups."""
    if name in group_names(read_root(location)):
        return
    with one_writer(location, wait_s=ROOT_WAIT_S):
        root = read_root(location)
        if name not in group_names(root):
            _write_groups(location, root, [*group_names(root), name])


def forget_group(location: Location, name: str) -> None:
    """Remove a token group from the list, but not its files. The caller holds the root."""
    root = read_root(location)
    _write_groups(location, root, [other for other in group_names(root) if other != name])


def _write_groups(location: Location, root: Document, names: list[str]) -> None:
    check_held(location, "")
    attributes = {**root.attributes, "groups": sorted(names)}
    write_document(location, Document("", attributes, root.files, root.growing))


def _is_there(location: Location) -> bool:
    try:
        return location.exists("zarr.json")
    except StoreError:
        raise
    except Exception as error:  # every object store has its own exceptions
        raise StoreError(
            expected("Token store", location, "a location that answers",
                     f"{type(error).__name__}: {error}",
                     "Check the address, and the credentials in the environment.")
        ) from error  # fmt: skip


def _create(location: Location) -> None:
    location.remove_partial()
    tables = {f"{name}/zarr.json" for name in RESERVED_NAMES}
    # An interrupted creation leaves only these files.
    if not set(location.find("")) <= tables:
        raise StoreError(
            expected("Store path", location, "a token store or a new name",
                     "a folder with other content", "Choose another path (--store).")
        )  # fmt: skip
    location.write_many(dict.fromkeys(tables, zarr_group()))
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "groups": [],
        "tables": {},
    }
    write_document(location, Document("", attributes, dict.fromkeys(tables, sha256(zarr_group()))))


def _check_format(location: Location) -> None:
    if not _is_there(location):
        is_empty = not location.list_dir()
        missing = StoreError(
            expected("Token store", location, "a store made by `fmritok tokenize`",
                     "nothing" if is_empty else "a folder without zarr.json", "Check the path.")
        )  # fmt: skip
        raise wrong_usage(missing) if is_empty else missing
    try:
        attributes = parse_json(location.read("zarr.json"))["attributes"]
        kind, version = attributes.get("format"), attributes.get("format_version")
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            expected("Token store", location, "readable zarr metadata", error,
                     "Restore zarr.json from a copy.")
        ) from error  # fmt: skip
    if kind != FORMAT:
        raise StoreError(
            expected("Token store", location, f"a Zarr hierarchy of format {FORMAT!r}",
                     f"format {kind!r}", "Choose another path (--store).")
        )  # fmt: skip
    if version != FORMAT_VERSION:
        next_step = (
            "fmritok 0.1 wrote it: tokenize into a new store, or read it with fmritok 0.1."
            if version == 1
            else "Install the fmritok release that wrote it."
        )
        raise StoreError(
            expected("Token store", location, f"format version {FORMAT_VERSION} in its zarr.json",
                     version, next_step)
        )  # fmt: skip
