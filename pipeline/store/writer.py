"""Write one run to a token group: shards and statistics, read back and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, StoreError, expected
from fmritok.pipeline.store.chunks.codec import encode_shard
from fmritok.pipeline.store.chunks.layout import open_direct
from fmritok.pipeline.store.chunks.shards import DirectArray
from fmritok.pipeline.store.location import PARTIAL, Location
from fmritok.pipeline.store.precision import StoredRun
from fmritok.pipeline.store.records import remove_record

__all__ = ["array_sha256", "refuse_not_finite", "stored_sha256", "write_run"]


def write_run(
    location: Location,
    group: str,
    *,
    run_id: str,
    row: int,
    start: int,
    stored: StoredRun,
    run_arrays: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> dict[str, dict[str, str]]:
    """Write the arrays of one run, read them back, and return their checksums.

    Every chunk of the run is written, including chunks of zeros. Writing the same run twice gives
    the same bytes. The caller writes the completion record.

    Parameters
    ----------
    location, group : Location, str
    run_id : str
    row : int
        Row in the group's ``runs`` table and per-run arrays.
    start : int
        First frame, on a shard boundary.
    stored : StoredRun
    run_arrays : dict of str to np.ndarray, optional
        Values of further per-run arrays, by name.

    Returns
    -------
    dict of str to dict
        ``sha256`` of the values and ``crc32c`` of the chunks, by array; see
        :class:`~fmritok.pipeline.store.records.RunRecord`.

    Raises
    ------
    StoreError
        If ``start`` is not on a shard boundary, or values read back differ.
    """
    tokens = open_direct(location, f"{group}/tokens")
    n_frames = len(stored.tokens)
    # Two writers of one shard would overwrite each other's frames.
    if start % tokens.file_rows or start + n_frames > tokens.shape[0]:
        raise StoreError(
            expected("Frames of run", run_id,
                     f"a start divisible by {tokens.file_rows}, inside the array",
                     f"{start}:{start + n_frames} of {tokens.shape[0]}",
                     "Plan again with `fmritok tokenize`.")
        )  # fmt: skip
    rows = {"mean": stored.mean, "std": stored.std}
    if stored.scale is not None:
        rows["scale"] = stored.scale
    rows |= {name: np.asarray(v, np.float32) for name, v in (run_arrays or {}).items()}
    remove_record(location, group, run_id)
    crcs = {"tokens": _write_rows(location, tokens, start, stored.tokens)}
    arrays = {"tokens": tokens}
    for name, row_values in rows.items():
        arrays[name] = open_direct(location, f"{group}/{name}")
        crcs[name] = _write_rows(location, arrays[name], row, row_values[None])

    checksums = {}
    for name, array in arrays.items():
        values: npt.NDArray[Any] = stored.tokens if name == "tokens" else rows[name]
        first, count = (start, n_frames) if name == "tokens" else (row, 1)
        wanted = array_sha256(values)
        if stored_sha256(array, first, count, crcs[name]) != wanted:
            raise StoreError(
                expected(f"Array {name} of run", run_id, "what was written", "other values",
                         f"Check the disk under {location}, then tokenize again.")
            )  # fmt: skip
        checksums[name] = {"sha256": wanted, "crc32c": "".join(f"{c:08x}" for c in crcs[name])}
    return checksums


def refuse_not_finite(run_id: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse a run with NaN or infinite values in its per-run arrays.

    Raises
    ------
    RunError
    """
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise RunError(
                expected(f"Array {name} of run", run_id, "finite values", "NaN or infinite ones",
                         "Check the run's intensities.")
            )  # fmt: skip


def stored_sha256(array: DirectArray, start: int, n_rows: int, crcs: list[int]) -> str:
    """Read rows from the store, shard by shard, and return the sha256 of their values.

    Parameters
    ----------
    array : DirectArray
    start, n_rows : int
        First row, at the start of a chunk, and number of rows.
    crcs : list of int
        Expected crc32c of the chunks from ``start`` on.

    Raises
    ------
    StoreError
        If a chunk cannot be read or has another checksum.
    """
    digest = hashlib.sha256()
    wanted = np.zeros(start // array.chunk_rows + len(crcs), np.uint32)
    wanted[start // array.chunk_rows :] = crcs
    for first in range(start, start + n_rows, array.file_rows):
        count = min(array.file_rows, start + n_rows - first)
        digest.update(_bytes(array.read(first, count, crcs=wanted)))
    return digest.hexdigest()


def array_sha256(values: npt.NDArray[Any]) -> str:
    """Return the sha256 of the values of an array: little-endian, C order."""
    return hashlib.sha256(_bytes(values)).hexdigest()


def _write_rows(
    location: Location, array: DirectArray, start: int, values: npt.NDArray[Any]
) -> list[int]:
    """Write whole files of an array, and return the crc32c of every chunk."""
    crcs: list[int] = []
    for first in range(0, len(values), array.file_rows):
        block = values[first : first + array.file_rows]
        chunks = [_whole_chunk(array, block, i) for i in range(0, len(block), array.chunk_rows)]
        room = array.file_rows // array.chunk_rows if array.is_sharded else None
        data, found = encode_shard(chunks, room, compress=array.is_compressed)
        key = array.file_key((start + first) // array.file_rows)
        _clear_partial(location, key)
        location.write(key, data)
        crcs += found
    return crcs


def _whole_chunk(array: DirectArray, block: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
    chunk = block[first : first + array.chunk_rows]
    if len(chunk) == array.chunk_rows:
        return chunk
    # Pad the last chunk of the run. Readers never read the padding.
    whole = np.zeros((array.chunk_rows, *block.shape[1:]), block.dtype)
    whole[: len(chunk)] = chunk
    return whole


def _bytes(values: npt.NDArray[Any]) -> memoryview:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return memoryview(little.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _clear_partial(location: Location, key: str) -> None:
    """Delete unfinished files of killed attempts to write an object."""
    folder, _, name = key.rpartition("/")
    if location.is_local:
        for other in location.list_dir(folder):
            if other.startswith(f"{name}.") and other.endswith(PARTIAL):
                location.remove(f"{folder}/{other}")
