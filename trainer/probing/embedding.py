"""Embeddings of a store's runs as a Parquet file, run by run, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data.labels import runs_where
from fmritok.trainer.data.phenotypes import values_of_runs
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.evaluation.features import (
    Encoded,
    FrozenEncoder,
    Pool,
    encode,
    following_windows,
    spread_windows,
)
from fmritok.trainer.faults import within_memory, writing
from fmritok.trainer.probing.material import open_sources

__all__ = ["Per", "embed"]

Per = Literal["run", "window", "frame"]

_GROUP_BYTES = 32 * 2**20  # of a row group, about
_RUN_COLUMNS = ("run_id", "dataset", "subject", "session", "task", "site", "family", "tr")
_PLACE = {"run": (), "window": ("first_frame", "n_frames", "start_s"),
          "frame": ("first_frame", "n_frames", "start_s")}  # fmt: skip
_VECTOR = "embedding"


@within_memory("embed", "Use a machine or a GPU with more of it, or --device cpu.")
def embed(
    store: str,
    training: Path,
    out: Path,
    *,
    per: Per = "run",
    pool: Pool = "mean",
    crops: int = 8,
    group: str | None = None,
    where: Sequence[str] = (),
    device: torch.device,
    workers: int = 0,
) -> tuple[int, int]:
    """Write the embeddings of runs, windows or frames with their subjects' phenotypes.

    The column ``embedding`` is a list of float32. Of a run and of a window it is the mean over all
    tokens (or over those of each cell, end to end), then CLS. Of a frame, or the frames of one
    patch, it is without CLS. The schema's metadata ``fmritok`` says in JSON what was encoded by
    which weights.

    Parameters
    ----------
    store : str
    training : Path
        Folder of a training, or one of its checkpoints.
    out : Path
        Written whole or not at all.
    per : {"run", "window", "frame"}
        A row for each. ``run``: the average over evenly spread windows, the features of ``fmritok
        probe``. Others: windows that follow each other; the last one ends with its run.
    pool : {"mean", "cells"}
    crops : int
        Windows of a run, for ``per="run"``.
    group : str, optional
        Token group; by default the training's.
    where : sequence of str
        ``column=value``: which runs.
    device : torch.device
    workers : int

    Returns
    -------
    n_rows, width : int
        Rows, and features of each.

    Raises
    ------
    ConfigError
        If no run matches.
    CheckpointError
        If there is no checkpoint, or it was trained on other tokens.
    TrainingError
        If the group has no finished run, an embedding is not finite, or the disk does not take the
        file.
    """
    if out.is_dir():
        raise ConfigError(
            expected("Option", "--out", "a file such as embeddings.parquet", f"the folder {out}",
                     "Choose a file in it.")
        )  # fmt: skip
    opened = TokenStore(store)
    (source,) = open_sources(opened, [training], group)
    if not len(source.group):
        raise TrainingError(
            expected("Token group", f"{source.group.name} of {opened.location}",
                     "at least one finished run", "none", "Run `fmritok tokenize` first.")
        )  # fmt: skip
    runs = runs_where(source.group.runs, where).sort_values("run_id", ignore_index=True)
    table = _described(runs, opened.phenotypes)
    index = RunIndex.of(runs, runs["run_id"].tolist())
    windows = _windows(index, source.frozen, per, crops)
    parts = _rows(source.frozen, source.group, index, windows, per, pool, device, workers)
    metadata = {
        **source.frozen.source, "store": str(opened.location), "group": source.group.name,
        "contract": source.group.contract, "per": per, "pool": pool,
        "crops": crops if per == "run" else None, "where": list(where),
        "width": source.frozen.config.model.width,
        "cells": source.frozen.encoder.grid.n_cells, "fmritok": version("fmritok"),
    }  # fmt: skip
    partial = out.with_name(f".{out.name}.partial")
    n_rows, size = 0, 0
    try:
        with writing("Embeddings", out, then="Then embed again."):
            out.parent.mkdir(parents=True, exist_ok=True)
            writer: pq.ParquetWriter | None = None
            for frame, vectors in _grouped(parts):
                rows = _arrow(table, frame, vectors, per, metadata)
                if writer is None:
                    writer = pq.ParquetWriter(partial, rows.schema, compression="zstd")
                writer.write_table(rows)
                n_rows, size = n_rows + len(vectors), vectors.shape[1]
            if writer is not None:
                writer.close()
            partial.replace(out)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return n_rows, size


def _described(runs: pd.DataFrame, phenotypes: pd.DataFrame) -> pd.DataFrame:
    """Return the properties and phenotypes of each run."""
    table = runs[[name for name in _RUN_COLUMNS if name in runs]].reset_index(drop=True)
    taken = {*_RUN_COLUMNS, *_PLACE["frame"], _VECTOR}
    for name in phenotypes.columns:
        if name in ("dataset", "subject", "session"):
            continue
        values = values_of_runs(str(name), runs, phenotypes)
        if name == "site":  # that of the run, or of the table of subjects
            table["site"] = values
        else:
            table[f"phenotype_{name}" if name in taken else str(name)] = values
    for name in table.select_dtypes("object").columns:  # a Parquet column has one type
        table[name] = table[name].astype(str).where(table[name].notna(), None)
    return table


def _windows(index: RunIndex, frozen: FrozenEncoder, per: Per, crops: int) -> Windows:
    places = [
        (run, *place)
        for run, n_frames in enumerate(index.n_frames.tolist())
        for place in (
            spread_windows(n_frames, window=frozen.window, crops=crops) if per == "run"
            else following_windows(n_frames, window=frozen.window)
        )
    ]  # fmt: skip
    run, first, length = np.array(places, dtype=np.int64).reshape(-1, 3).T
    return Windows.of(run, first, length, np.zeros_like(run))


_Rows = tuple[pd.DataFrame, npt.NDArray[np.float32]]


def _rows(
    frozen: FrozenEncoder,
    group: Any,
    index: RunIndex,
    windows: Windows,
    per: Per,
    pool: Pool,
    device: torch.device,
    workers: int,
) -> Iterator[_Rows]:
    """Yield places and embeddings of consecutive rows: of a run, or of the windows of a batch."""
    done, patch = 0, frozen.encoder.grid.layout.patch
    kept: list[npt.NDArray[np.float32]] = []
    for batch, (encoded,) in encode(
        [frozen], group, index, windows, device=device, workers=workers
    ):
        own = slice(done, done + len(batch.runs))
        done = own.stop
        run, first, length = windows.run[own], windows.first[own], windows.n_frames[own]
        if per == "frame":
            yield _of_patches(encoded, run, first, length, index, pool, patch)
            continue
        vectors = encoded.pooled(pool).numpy()
        if per == "window":
            yield _placed(run, first, length, index), vectors
            continue
        for i, (number, vector) in enumerate(zip(run, vectors, strict=True)):
            kept.append(vector)
            after = own.start + i + 1
            if after == len(windows) or windows.run[after] != number:
                mean = np.stack(kept).mean(0, dtype=np.float64, keepdims=True)
                yield pd.DataFrame({"run": [number]}), mean.astype(np.float32)
                kept = []


def _of_patches(
    encoded: Encoded,
    run: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    index: RunIndex,
    pool: Pool,
    patch: int,
) -> _Rows:
    """Return the patches of frames; a last window leaves out those that the one before it has."""
    n_patches = encoded.tokens.shape[1]
    start = first[:, None] + patch * np.arange(n_patches)
    end = np.minimum(start + patch, (first + length)[:, None])
    # A window that does not start at a multiple of its length overlaps with the one before.
    covered = np.where(first % length, first - first % length + length, first)
    chosen = (start < end) & (end > covered[:, None])
    tokens = encoded.tokens if pool == "cells" else encoded.tokens.mean(2, keepdim=True)
    vectors = tokens.flatten(2).numpy()[chosen]
    of_row = np.broadcast_to(run[:, None], start.shape)[chosen]
    return _placed(of_row, start[chosen], (end - start)[chosen], index), vectors


def _placed(
    run: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    index: RunIndex,
) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": run, "first_frame": first, "n_frames": length, "start_s": first * index.tr[run]}
    )


def _grouped(parts: Iterator[_Rows]) -> Iterator[_Rows]:
    """Join rows to row groups."""
    kept: list[_Rows] = []
    size = 0
    for part in parts:
        kept.append(part)
        size += part[1].nbytes
        if size >= _GROUP_BYTES:
            yield _joined(kept)
            kept, size = [], 0
    if kept:
        yield _joined(kept)


def _joined(parts: Sequence[_Rows]) -> _Rows:
    frames, vectors = zip(*parts, strict=True)
    return pd.concat(frames, ignore_index=True), np.concatenate(vectors)


def _arrow(
    table: pd.DataFrame,
    places: pd.DataFrame,
    vectors: npt.NDArray[np.float32],
    per: Per,
    metadata: dict[str, Any],
) -> pa.Table:
    described = pa.Schema.from_pandas(table, preserve_index=False)
    rows = pa.Table.from_pandas(
        table.iloc[places["run"]], schema=described.remove_metadata(), preserve_index=False
    )
    for name in _PLACE[per]:
        rows = rows.append_column(name, pa.array(places[name]))
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    rows = rows.append_column(_VECTOR, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    return rows.replace_schema_metadata({"fmritok": json.dumps(metadata)})
