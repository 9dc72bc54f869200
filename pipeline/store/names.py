"""What token groups, runs, tables, columns and files of a store are called, and may be called.

Names come from other people's stores and cohorts, and become parts of paths. They are checked here,
by kind, when they are read: from a store's metadata and tables, and from a catalogue.
"""

from __future__ import annotations

import re

from fmritok.errors import StoreError, expected

__all__ = [
    "COLUMNS", "GROUP_TABLES", "IDENTITY", "RESERVED_NAMES", "SOURCE", "check_group_name",
    "crc_column", "is_file_key", "is_group_name", "is_run_id",
]  # fmt: skip

#: Tables of the root, which no token group can be named after.
RESERVED_NAMES = ("phenotypes", "phenotype_columns", "events")
#: Tables of a group: its runs, and the checksum of every chunk of ``tokens``.
GROUP_TABLES = ("runs", "chunks")
#: Columns that identify a run.
IDENTITY = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space",
]  # fmt: skip
#: What a finished run is bound to, with its type: the path of its file below the cohort's root; the
#: bytes and times of change (ns since 1970) of all of its files, one after another; the frames and
#: repetition time of the catalogue.
SOURCE = {
    "source": "text", "source_bytes": "text", "source_time": "text",
    "source_frames": "integer", "source_tr": "number",
}  # fmt: skip
#: Columns of the ``runs`` table, with their types; a group has one more for each per-run array.
COLUMNS = {
    **dict.fromkeys(IDENTITY, "text"), "tr": "number", **SOURCE, "start": "integer",
    "n_frames": "integer", "status": "text", "reason": "text", "checksum": "text",
    "source_sha256": "text",
}  # fmt: skip
#: Endings of files that lie beside groups and records.
_ENDINGS = (".partial", ".json", ".lock")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RUN = re.compile(r"\w[\w.+-]*")
#: Bytes of a run id: file systems take names of 255.
_RUN_BYTES = 200
_KEY_PART = re.compile(r"[\w -][\w .+-]*")
_KEY_LENGTH = 1024


def is_group_name(name: object) -> bool:
    """Tell whether a token group may have this name."""
    return (
        isinstance(name, str)
        and _GROUP.fullmatch(name) is not None
        and name not in RESERVED_NAMES
        and not name.endswith(_ENDINGS)
    )


def check_group_name(name: object) -> None:
    """Refuse a name that no token group may have.

    Raises
    ------
    StoreError
    """
    if not is_group_name(name):
        raise StoreError(
            expected("Name of a token group", repr(name),
                     "up to 64 letters, digits, '.', '_' and '-', no ending of a file, none of "
                     f"{', '.join(RESERVED_NAMES)}", "another name",
                     "Choose one with --group NAME.")
        )  # fmt: skip


def is_run_id(name: object) -> bool:
    """Tell whether a run may have this id: letters, digits, ``_``, ``-``, ``.`` and ``+``."""
    return (
        isinstance(name, str)
        and _RUN.fullmatch(name) is not None
        and not name.endswith(_ENDINGS)
        and len(name.encode("utf-8", "replace")) <= _RUN_BYTES
    )


def is_file_key(key: object) -> bool:
    """Tell whether a file below a group may have this path: plain names, none of them hidden."""
    return (
        isinstance(key, str)
        and 0 < len(key) <= _KEY_LENGTH
        and all(_KEY_PART.fullmatch(part) for part in key.split("/"))
    )


def crc_column(array: str) -> str:
    """Return the column that holds the crc32c of each run's row of an array."""
    return f"{array}_crc32c"
