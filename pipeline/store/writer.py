"""Write one run into a token group: shards, statistics, read back, and only then the record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import StoreError, expected
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import StoredRun
from fmritok.pipeline.store.records import record_key

if TYPE_CHECKING:
    import zarr

__all__ = ["array_sha256", "write_run"]


def write_run(
    location: Location,
    group: str,
    *,
    run_id: str,
    row: int,
    start: int,
    stored: StoredRun,
    run_arrays: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> dict[str, str]:
    """Write what belongs to one run, read it back, and return its checksums.

    Writing the same run twice leaves the same bytes. The caller writes the completion record.

    Parameters
    ----------
    location, group : Location, str
    run_id : str
    row : int
        The run's row in the group's ``runs`` table and per-run arrays.
    start : int
        First frame; on a shard boundary.
    stored : StoredRun
    run_arrays : dict of str to np.ndarray, optional
        Values of the group's further per-run arrays.

    Returns
    -------
    dict of str to str
        Array name to hex sha256 of the stored values.

    Raises
    ------
    StoreError
        If ``start`` is not on a shard boundary, or what is read back differs.
    """
    import zarr

    opened = zarr.open_group(location.zarr_store(), path=group, mode="r+")
    tokens = _array(opened, "tokens")
    shard_frames = (tokens.shards or tokens.chunks)[0]
    n_frames = len(stored.tokens)
    # Writers that share a shard lose data silently in zarr: checked, not assumed.
    if start % shard_frames or start + n_frames > tokens.shape[0]:
        raise StoreError(
            expected("Frames of run", run_id,
                     f"a start divisible by {shard_frames}, inside the array",
                     f"{start}:{start + n_frames} of {tokens.shape[0]}",
                     "Plan again with `fmritok tokenize`.")
        )  # fmt: skip

    location.remove(record_key(group, run_id))
    rows = {"mean": stored.mean, "std": stored.std}
    if stored.scale is not None:
        rows["scale"] = stored.scale
    rows.update(run_arrays or {})

    written = []
    for first in range(0, n_frames, shard_frames):
        key = f"{group}/tokens/c/{(start + first) // shard_frames}/0/0"
        _clear(location, key)
        block = stored.tokens[first : first + shard_frames]
        tokens[start + first : start + first + len(block)] = block
        written.append(key)
    for name, values in rows.items():
        array = _array(opened, name)
        key = f"{group}/{name}/c/{row}" + "/0" * (array.ndim - 1)
        _clear(location, key)
        array[row] = values
        written.append(key)
    for key in written:
        location.sync(key)

    checksums = {"tokens": array_sha256(stored.tokens)}
    checksums |= {name: array_sha256(values) for name, values in rows.items()}
    found = read_checksums(opened, row=row, start=start, n_frames=n_frames, names=list(checksums))
    if found != checksums:
        bad = next(name for name in checksums if found[name] != checksums[name])
        raise StoreError(
            expected(f"Array {bad} of run", run_id, "what was written", "other values",
                     f"Check the disk under {location}, then tokenize again.")
        )  # fmt: skip
    return checksums


def read_checksums(
    group: zarr.Group, *, row: int, start: int, n_frames: int, names: list[str]
) -> dict[str, str]:
    """Return the checksums of what the store holds for one run, array by array."""
    found = {}
    for name in names:
        array = _array(group, name)
        if name == "tokens":
            digest = hashlib.sha256()
            step = (array.shards or array.chunks)[0]
            for first in range(start, start + n_frames, step):
                block = array[first : min(first + step, start + n_frames)]
                digest.update(_bytes(np.asarray(block)))
            found[name] = digest.hexdigest()
        else:
            found[name] = array_sha256(np.asarray(array[row]))
    return found


def array_sha256(values: npt.NDArray[Any]) -> str:
    """Hash an array's values: little-endian, C order."""
    return hashlib.sha256(_bytes(values)).hexdigest()


def _bytes(values: npt.NDArray[Any]) -> memoryview:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return memoryview(little.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    return group[name]  # type: ignore[return-value]


def _clear(location: Location, key: str) -> None:
    """Remove what an earlier, killed attempt may have left at ``key``."""
    folder, _, name = key.rpartition("/")
    if location.is_local:
        for other in location.list_dir(folder):
            if other == name or (other.startswith(f"{name}.") and other.endswith(".partial")):
                location.remove(f"{folder}/{other}")
    else:
        location.remove(key)
