"""Completion records: one small JSON object per run and group, written last.

A record is the attributes of the zarr group ``GROUP/records/RUN_ID``, so that zarr-python alone can
read it. A run without a record does not exist for any reader; a record whose status is ``failed``
keeps the reason. Each record carries a digest of itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.documents.checks import check_record, parse_json
from fmritok.pipeline.store.documents.seal import canonical_json, sha256, zarr_group
from fmritok.pipeline.store.location import Location

__all__ = [
    "RunRecord", "list_records", "read_record", "read_records", "record_key", "remove_record",
    "write_record",
]  # fmt: skip

Status = Literal["done", "failed"]

_RECORDS_AT_ONCE = 4096


@dataclass(frozen=True)
class RunRecord:
    """What one task did with one run.

    Attributes
    ----------
    run_id : str
    status : {"done", "failed"}
    start, n_frames : int
        Frames ``start : start + n_frames`` of the group's ``tokens`` are the run's. 0 if it failed.
    reason, traceback : str
        Why it failed; empty if it did not.
    checksums : dict of str to dict
        By the name of each array that the run wrote to: ``sha256``, hex, of the stored values (C
        order, little-endian); ``crc32c``, 8 hex digits for each chunk, in order.
    row : int
        The run's row in the ``runs`` table and in arrays with one row per run; -1 if it failed.
    columns : dict
        What the ``runs`` table says of the run and of its source, by column.
    source_sha256 : str
        Hex sha256 of the source file's bytes.
    normalizer : dict
        The numbers the run's intensities were normalized with.
    placement : str
        How the source's grid became the tokenizer's (``exact``, or what was interpolated).
    seconds : dict of str to float
        Wall time by phase.
    """

    run_id: str
    status: Status
    start: int = 0
    n_frames: int = 0
    row: int = -1
    reason: str = ""
    traceback: str = ""
    checksums: dict[str, dict[str, str]] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    source_sha256: str = ""
    normalizer: dict[str, float] = field(default_factory=dict)
    placement: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """One digest over all values that the run wrote."""
        values = {name: one["sha256"] for name, one in self.checksums.items()}
        return sha256(canonical_json(values))

    def misfit(self, start: int, n_frames: int, chunk_frames: int, per_run: Iterable[str]) -> str:
        """Say what of a finished run's record does not fit its place; empty if all does.

        Parameters
        ----------
        start, n_frames : int
            Frames that the run was given.
        chunk_frames : int
        per_run : iterable of str
            Arrays with one row per run.
        """
        if (self.start, self.n_frames) != (start, n_frames):
            return f"{self.n_frames} from {self.start} on"
        wanted = {**dict.fromkeys(per_run, 1), "tokens": -(-n_frames // chunk_frames)}
        found = {name: len(one["crc32c"]) // 8 for name, one in self.checksums.items()}
        return "" if found == wanted else f"checksums of {found} chunks instead of {wanted}"

    def crcs(self, array: str) -> list[int]:
        """Return the crc32c of each chunk that the run wrote to an array, in order."""
        digits = self.checksums[array]["crc32c"]
        return [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]


def record_key(group: str, run_id: str) -> str:
    """Return the key of a run's completion record."""
    return f"{group}/records/{run_id}/zarr.json"


def write_record(location: Location, group: str, record: RunRecord) -> None:
    """Write a record atomically."""
    body: dict[str, Any] = asdict(record)
    body["digest"] = sha256(canonical_json(body))
    location.remove_partial(f"{group}/records/{record.run_id}")
    location.write(record_key(group, record.run_id), zarr_group(body))


def remove_record(location: Location, group: str, run_id: str) -> None:
    """Delete a record. Readers no longer see the run."""
    location.remove(record_key(group, run_id))


def read_record(location: Location, group: str, run_id: str) -> RunRecord | None:
    """Read a run's record; None if there is none.

    Raises
    ------
    StoreError
        If the record is damaged.
    """
    key = record_key(group, run_id)
    try:
        data = location.read(key)
    except FileNotFoundError:
        return None
    try:
        document = parse_json(data)
        body = dict(document["attributes"])
        digest = body.pop("digest")
        intact = (
            zarr_group(document["attributes"]) == data
            and sha256(canonical_json(body)) == digest
            and body["run_id"] == run_id
        )
        if intact:
            check_record(body)
        record = RunRecord(**body)
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise StoreError(
            expected("Completion record of run", f"{run_id} in group {group}",
                     "a record that matches its digest", "a damaged one",
                     "Run `fmritok verify --drop`, then the same `fmritok tokenize`.")
        )  # fmt: skip
    return record


def read_records(location: Location, group: str, run_ids: Iterable[str]) -> Iterator[RunRecord]:
    """Read many runs' records, several at a time; missing and damaged ones are left out.

    `verify` names the damaged ones.

    Yields
    ------
    RunRecord
    """

    def read(run_id: str) -> RunRecord | None:
        try:
            return read_record(location, group, run_id)
        except StoreError:
            return None

    wanted = list(run_ids)
    # On a local disk the work is parsing; an object store is waited for.
    with ThreadPoolExecutor(2 if location.is_local else 32) as pool:
        for first in range(0, len(wanted), _RECORDS_AT_ONCE):
            some = wanted[first : first + _RECORDS_AT_ONCE]
            yield from (record for record in pool.map(read, some) if record is not None)


def list_records(location: Location, group: str) -> list[str]:
    """Return the run ids that have a record; nothing is opened."""
    return location.list_folders(f"{group}/records", holding="zarr.json")
