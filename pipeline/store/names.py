"""Names of token groups, runs, tables, columns and files in a store, and their checks.

Names from stores and cohorts are untrusted, and become parts of paths. They are checked here when
they are read from metadata, tables or a catalogue.
"""

from __future__ import annotations

import re

from fmritok.errors import StoreError, expected

__all__ = [
    "COLUMNS", "DESCRIPTION", "GROUP_TABLES", "IDENTITY", "LATER", "RESERVED_NAMES", "SOURCE",
    "check_group_name", "crc_column", "is_file_key", "is_group_name", "is_run_id",
]  # fmt: skip

#: Tables of the root. Token groups cannot have these names.
RESERVED_NAMES = ("phenotypes", "phenotype_columns", "events")
#: Tables of a group: its runs, and the checksum of every chunk of ``tokens``.
GROUP_TABLES = ("runs", "chunks")
#: Columns that identify a run.
IDENTITY = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space",
]  # fmt: skip
#: Columns of the source of a run, with their types: path of its file below the cohort's root; sizes
#: (bytes) and modification times (ns since 1970) of all its files; frames and repetition time of
#: the catalogue.
SOURCE = {
    "source": "text", "source_bytes": "text", "source_time": "text",
    "source_frames": "integer", "source_tr": "number",
}  # fmt: skip
#: Columns of which the tables of older stores have none, with their types.
LATER = {"motion": "number"}
#: Columns that follow the catalogue even for finished runs: they do not change tokens.
DESCRIPTION = ("site", "family", "motion")
#: Columns of the ``runs`` table, with their types. Each per-run array adds one more.
COLUMNS = {
    **dict.fromkeys(IDENTITY, "text"), "tr": "number", **SOURCE, "start": "integer",
    "n_frames": "integer", "status": "text", "reason": "text", "checksum": "text",
    "source_sha256": "text", **LATER,
}  # fmt: skip
#: Extensions of other files beside groups and records. Names must not end in them.
_ENDINGS = (".partial", ".json", ".lock")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RUN = re.compile(r"\w[\w.+-]*")
#: Largest run id, bytes. File systems allow names of 255 bytes.
_RUN_BYTES = 200
_KEY_PART = re.compile(r"[\w -][\w .+-]*")
_KEY_LENGTH = 1024


def is_group_name(name: object) -> bool:
    """Whether a name is a valid name of a token group."""
    return (
        isinstance(name, str)
        and _GROUP.fullmatch(name) is not None
        and name not in RESERVED_NAMES
        and not name.endswith(_ENDINGS)
    )


def check_group_name(name: object) -> None:
    """Refuse an invalid name of a token group.

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
    """Whether a run id is valid: letters, digits, ``_``, ``-``, ``.`` and ``+``."""
    return (
        isinstance(name, str)
        and _RUN.fullmatch(name) is not None
        and not name.endswith(_ENDINGS)
        and len(name.encode("utf-8", "replace")) <= _RUN_BYTES
    )


def is_file_key(key: object) -> bool:
    """Whether a path below a group is valid: plain names, none of them hidden."""
    return (
        isinstance(key, str)
        and 0 < len(key) <= _KEY_LENGTH
        and all(_KEY_PART.fullmatch(part) for part in key.split("/"))
    )


def crc_column(array: str) -> str:
    """Return the name of the column with the crc32c of each run's row of an array."""
    return f"{array}_crc32c"
