"""Completion records: one small JSON object per run and group, written last.

A record is stored as the attributes of the zarr group ``GROUP/records/RUN_ID``; zarr-python can
read it. Readers ignore runs without a record. A record with status ``failed`` has the reason. Each
record contains a digest of itself.
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
    """Result of one task for one run.

    Attributes
    ----------
    run_id : str
    status : {"done", "failed"}
    start, n_frames : int
        The run has frames ``start : start + n_frames`` of the group's ``tokens``. 0 if it failed.
    reason, traceback : str
        Cause of a failure; empty otherwise.
    checksums : dict of str to dict
        For each array written by the run: ``sha256``, hex, of the stored values (C order,
        little-endian); ``crc32c``, 8 hex digits per chunk, in order.
    row : int
        Row in the ``runs`` table and in arrays with one row per run; -1 if the run failed.
    columns : dict
        Values of the run and its source for the ``runs`` table, by column.
    source_sha256 : str
        Hex sha256 of the source file.
    normalizer : dict
        Numbers of the intensity normalization.
    placement : str
        Map from the grid of the source to that of the tokenizer: ``exact``, or the interpolation.
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
        """One digest over all values written by the run."""
        values = {name: one["sha256"] for name, one in self.checksums.items()}
        return sha256(canonical_json(values))

    def misfit(self, start: int, n_frames: int, chunk_frames: int, per_run: Iterable[str]) -> str:
        """Return how a record contradicts the plan; empty if it does not.

        Parameters
        ----------
        start, n_frames : int
            Frames assigned to the run.
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
        """Return the crc32c of each chunk of the run in an array, in order."""
        digits = self.checksums[array]["crc32c"]
        return [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]


def record_key(group: str, run_id: str) -> str:
    """Return the key of the completion record of a run."""
    return f"{group}/records/{run_id}/zarr.json"


def write_record(location: Location, group: str, record: RunRecord) -> None:
    """Write a record atomically."""
    body: dict[str, Any] = asdict(record)
    body["digest"] = sha256(canonical_json(body))
    location.remove_partial(f"{group}/records/{record.run_id}")
    location.write(record_key(group, record.run_id), zarr_group(body))


def remove_record(location: Location, group: str, run_id: str) -> None:
    """Delete a record. The run is then invisible to readers."""
    location.remove(record_key(group, run_id))


def read_record(location: Location, group: str, run_id: str) -> RunRecord | None:
    """Read the record of a run; None if there is none.

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
    """Read the records of many runs, several at a time. Missing and damaged ones are skipped.

    ``fmritok verify`` reports damaged records.

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
    # Local records are limited by parsing, remote ones by waiting: use more threads for remote.
    with ThreadPoolExecutor(2 if location.is_local else 32) as pool:
        for first in range(0, len(wanted), _RECORDS_AT_ONCE):
            some = wanted[first : first + _RECORDS_AT_ONCE]
            yield from (record for record in pool.map(read, some) if record is not None)


def list_records(location: Location, group: str) -> list[str]:
    """Return the ids of all runs with a record, without opening the records."""
    return location.list_folders(f"{group}/records", holding="zarr.json")
