"""Rebuild the tables of a group from its completion records."""

from __future__ import annotations

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.documents.seal import array_document, read_document, zarr_group
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import GROUP_TABLES
from fmritok.pipeline.store.records import list_records, read_records
from fmritok.pipeline.store.tables.runs_table import RunsTable
from fmritok.pipeline.store.tables.switch import replace_tables
from fmritok.quantities import counted

__all__ = ["mend_tables"]

#: Largest size of a rebuilt table.
_MOST_ROWS, _MOST_CHUNKS = 2**24, 2**28


def mend_tables(location: Location, group: str) -> int:
    """Rebuild the tables of a group from its completion records. The caller holds the group.

    Planned and failed runs lose their rows. Tokenizing again assigns new ones.

    Returns
    -------
    int
        Number of finished runs in the new table.

    Raises
    ------
    StoreError
        If the group's document or the metadata of an array are damaged, or a record has no valid
        row.
    """
    document = read_document(location, group)
    table = RunsTable.empty(
        [name for name in document.growing if name != "tokens"],
        int(document.attributes["contract"]["chunk_frames"]),
    )
    lengths = {}
    for name in document.growing:
        key = document.key(f"{name}/zarr.json")
        metadata = array_document(location, document, name, location.read_many([key]).get(key))
        lengths[name] = int(metadata["shape"][0])
    n_rows = min(lengths[name] for name in lengths if name != "tokens")
    n_chunks = lengths["tokens"] // table.chunk_frames
    if n_rows > _MOST_ROWS or n_chunks > _MOST_CHUNKS:
        raise StoreError(
            expected("Arrays of token group", f"{group} of {location}",
                     f"at most {_MOST_ROWS} runs and {_MOST_CHUNKS} chunks",
                     f"{n_rows} and {n_chunks}", "Restore the store from a copy.")
        )  # fmt: skip
    done = 0
    for record in read_records(location, group, list_records(location, group)):
        if record.status != "done":
            continue
        is_there = 0 <= record.row < n_rows and record.start + record.n_frames <= lengths["tokens"]
        if not is_there:
            raise StoreError(
                expected("Completion record of run", f"{record.run_id} in group {group}",
                         "its row and frames within the arrays",
                         f"row {record.row}, {counted(record.n_frames, 'frame')} from "
                         f"{record.start} on",
                         "Restore the table from a copy.")
            )  # fmt: skip
        while len(table) <= record.row:
            table.reset(table.append(f"lost-{len(table)}"))
        columns = table.columns
        columns["run_id"][record.row] = record.run_id
        columns["start"][record.row], columns["n_frames"][record.row] = (
            record.start, record.n_frames,
        )  # fmt: skip
        table.take(record.row, record, f"{group} of {location}")
        done += 1
    table.lengthen(n_chunks)
    location.write_many({document.key(f"{name}/zarr.json"): zarr_group() for name in GROUP_TABLES})
    replace_tables(location, document, table.tables(), lengths=lengths, anew=True)
    return done
