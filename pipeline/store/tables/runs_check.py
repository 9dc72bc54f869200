"""Checks of the tables and static arrays of a store before they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.pipeline.store.names import COLUMNS, is_run_id

__all__ = ["check_columns", "check_static", "check_tables"]

_STATUS = ("done", "failed", "planned")
_CRC_LIMIT = 2**32


def check_columns(table: pd.DataFrame, kinds: Mapping[str, str]) -> None:
    """Check that a table has columns of the given kinds.

    Parameters
    ----------
    table : pd.DataFrame
    kinds : dict of str to {"text", "integer", "number"}

    Raises
    ------
    ValueError
    """
    for name, kind in kinds.items():
        if name not in table:
            raise ValueError(f"no column {name}")
        if table.empty:
            continue  # of any type
        dtype = table[name].dtype
        fits = {
            "text": pd.api.types.is_object_dtype(dtype),
            "integer": pd.api.types.is_integer_dtype(dtype),
            "number": dtype.kind in "iuf",
        }
        if not fits[kind]:
            raise ValueError(f"column {name} of type {dtype} instead of {kind}")


def check_tables(
    runs: pd.DataFrame,
    chunks: pd.DataFrame,
    *,
    per_run: Iterable[str],
    contract: Mapping[str, Any],
    n_frames: int,
) -> None:
    """Check that runs of a group have unique names and do not share frames.

    Parameters
    ----------
    runs, chunks : pd.DataFrame
        Tables of the group.
    per_run : iterable of str
        Columns with checksums of rows of per-run arrays.
    contract : mapping
        Contract of the group.
    n_frames : int
        Length of ``tokens``.

    Raises
    ------
    ValueError
    """
    crcs = dict.fromkeys(per_run, "integer")
    check_columns(runs, {**COLUMNS, **crcs})
    check_columns(chunks, {"crc32c": "integer"})
    if runs.empty:
        return
    for table, names in ((runs, crcs), (chunks, ["crc32c"])):
        for name in names:
            if not table[name].dropna().between(0, _CRC_LIMIT - 1).all():
                raise ValueError(f"column {name} with other numbers than checksums")
    ids = runs["run_id"]
    odd = [run_id for run_id in ids if not is_run_id(run_id)]
    if odd:
        raise ValueError(f"a run named {odd[0]!r}")
    if not ids.is_unique:
        raise ValueError(f"two runs named {ids[ids.duplicated()].iloc[0]}")
    if not runs["status"].isin(_STATUS).all():
        raise ValueError("runs of another status than done, failed or planned")
    _check_frames(runs, len(chunks), contract, n_frames)


def check_static(arrays: Mapping[str, npt.NDArray[Any]], n_tokens: int, dim: int) -> None:
    """Check the static arrays that readers use.

    Raises
    ------
    ValueError
    """
    wanted = {
        "coordinates": ((n_tokens, 3), "f"),
        "network": ((n_tokens,), "iu"),
        "pixel_mask": ((n_tokens, dim), "b"),
        "cell": ((n_tokens, 2), "iu"),
    }
    for name, values in arrays.items():
        shape, kinds = wanted.get(name, (values.shape, values.dtype.kind))
        if values.shape != shape or values.dtype.kind not in kinds:
            raise ValueError(f"{name} of shape {values.shape}, {values.dtype}")


def _check_frames(
    runs: pd.DataFrame, n_chunks: int, contract: Mapping[str, Any], n_frames: int
) -> None:
    shard, most = int(contract["shard_frames"]), n_chunks * int(contract["chunk_frames"])
    start, length = (runs[name] for name in ("start", "n_frames"))
    if start.isna().any() or length.isna().any() or (start < 0).any() or (length < 0).any():
        raise ValueError("runs with negative frames")
    done = runs["status"] == "done"
    if (length[done] == 0).any() or not np.isfinite(runs["tr"][done]).all():
        raise ValueError("finished runs without frames or repetition time")
    if (runs["tr"][done] <= 0).any():
        raise ValueError("finished runs with a repetition time that is not positive")
    held = pd.DataFrame({"start": start, "length": length})[length > 0].sort_values("start")
    first, count = (held[name].to_numpy(np.int64) for name in ("start", "length"))
    end = first + count  # both are below 2**63
    if (first > n_frames).any() or (count > n_frames).any() or (end > min(n_frames, most)).any():
        raise ValueError(f"runs with frames beyond the {min(n_frames, most)} that there are")
    if (first % shard != 0).any() or (end[:-1] > first[1:]).any():
        raise ValueError("runs that share a shard")
