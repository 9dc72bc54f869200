"""Checks of the JSON documents of a store.

An edited store may have valid seals. Every field that is used later is therefore checked here: its
type, its range, and whether a name is safe as part of a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from fmritok.pipeline.store.chunks.codec import Codec
from fmritok.pipeline.store.names import (
    COLUMNS,
    GROUP_TABLES,
    RESERVED_NAMES,
    is_file_key,
    is_group_name,
    is_run_id,
)
from fmritok.pipeline.store.precision import PRECISIONS

__all__ = ["check_attributes", "check_record", "check_seal", "parse_json"]

#: Largest nesting of objects and lists. fmritok writes up to eight levels.
_LEVELS = 64
_LONGEST = 2**48
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CRCS = re.compile(r"([0-9a-f]{8})*")
_VERSION = r"/[0-9a-f]{16}"


def parse_json(data: bytes) -> Any:
    """Parse a JSON document.

    Raises
    ------
    ValueError
        If it is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    level, levels = [value], 0
    while level := [inner for one in level if isinstance(one, dict | list)
                    for inner in (one.values() if isinstance(one, dict) else one)]:  # fmt: skip
        levels += 1
        if levels > _LEVELS:
            raise ValueError("JSON that is nested too deeply")
    return value


def check_seal(files: Any, growing: Any) -> None:
    """Check the seal of a document: names of files and arrays, and their digests.

    Raises
    ------
    ValueError
    """
    for name, digest in _object(files, "sealed files").items():
        _require(is_file_key(name), f"a file named {name!r}")
        _require(_is_sha256(digest), f"a digest of {name}")
    for name, one in _object(growing, "growing arrays").items():
        _require(is_file_key(name) and "/" not in name, f"an array named {name!r}")
        _require(isinstance(one, dict) and set(one) == {"length", "sha256"}, f"a seal of {name}")
        _require(_is_count(one["length"]) and _is_sha256(one["sha256"]), f"a seal of {name}")


def check_attributes(path: str, attributes: Any, growing: Mapping[str, Any]) -> None:
    """Check the attributes of the root, or of a token group.

    Parameters
    ----------
    path : str
        Path of the group; empty for the root.
    attributes : dict
    growing : mapping
        The growing arrays in the seal.

    Raises
    ------
    ValueError
    """
    _object(attributes, "attributes")
    known = GROUP_TABLES if path else RESERVED_NAMES
    for name, place in _object(attributes.get("tables"), "tables").items():
        _require(name in known, f"a table named {name!r}")
        is_place = isinstance(place, str) and re.fullmatch(re.escape(name) + _VERSION, place)
        _require(is_place, f"a table {name} at {place!r}")
    if path:
        _check_group(attributes, growing)
        return
    groups = attributes.get("groups")
    _require(isinstance(groups, list), "a list of groups")
    for name in groups:
        _require(is_group_name(name), f"a group named {name!r}")
    _require(len(set(groups)) == len(groups), "groups")


def check_record(body: Any) -> None:
    """Check the body of a completion record, without its digest.

    Raises
    ------
    ValueError
    """
    _object(body, "a record")
    _require(is_run_id(body.get("run_id")), "a run id")
    _require(body.get("status") in ("done", "failed"), "a status")
    texts = ("reason", "traceback", "source_sha256", "placement")
    _require(all(isinstance(body.get(name), str) for name in texts), "texts")
    _require(_is_count(body.get("start")) and _is_count(body.get("n_frames")), "frames")
    _require(body.get("row") == -1 or _is_count(body.get("row")), "a row")
    for name in ("normalizer", "seconds"):
        _require(all(map(_is_number, _object(body.get(name), name).values())), f"a {name}")
    for name, value in _object(body.get("columns"), "columns").items():
        _require(name in COLUMNS and name != "run_id" and _fits(value, COLUMNS[name]),
                 f"a column {name!r}")  # fmt: skip
    checksums = _object(body.get("checksums"), "checksums")
    for name, one in checksums.items():
        _require(isinstance(one, dict) and _is_sha256(one.get("sha256")), f"a checksum of {name}")
        crcs = one.get("crc32c")
        _require(isinstance(crcs, str) and _CRCS.fullmatch(crcs), f"checksums of {name}")
    if body["status"] == "done":
        _require(body["n_frames"] > 0 and "tokens" in checksums, "tokens")


def _check_group(attributes: Mapping[str, Any], growing: Mapping[str, Any]) -> None:
    _object(attributes.get("notes"), "notes")
    contract = _object(attributes.get("contract"), "a contract")
    _require(contract.get("precision") in PRECISIONS, "a precision")
    _require(contract.get("codec") in get_args(Codec), "a codec")
    _object(contract.get("provenance"), "a provenance")
    for name in ("chunk_frames", "shard_frames", "tokens_per_frame", "dim"):
        _require(_is_count(contract.get(name)) and contract[name] > 0, f"{name}")
    _require(contract["shard_frames"] % contract["chunk_frames"] == 0, "shards")
    wanted = {"tokens", "mean", "std"} | ({"scale"} if contract["precision"] == "int8" else set())
    _require(wanted <= set(growing), "arrays")
    taken = {"records", *GROUP_TABLES}
    _require(not taken & set(growing), "arrays")


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} that fmritok does not write")


def _object(value: Any, what: str) -> dict[str, Any]:
    _require(isinstance(value, dict), what)
    found: dict[str, Any] = value
    return found


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LONGEST


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _fits(value: object, kind: str) -> bool:
    """Whether a value of a record fits its column. None means unknown."""
    if kind == "text":
        return value is None or isinstance(value, str)
    if kind == "integer":
        return value is None or (type(value) is int and abs(value) <= 2**63 - 1)
    return value is None or _is_number(value)
