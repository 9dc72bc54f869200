"""Measure the cost of integrity checks for readers: opening a large group, reading windows.

    python benchmarks/speed/integrity.py --runs 40000

Opening checks the seal of metadata, tables and static arrays. Reading compares every chunk with its
checksum in the tables. Reads with and without this comparison are timed in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from scale import finish_half, fold, plan

from fmritok.pipeline.store.chunks.layout import open_direct
from fmritok.pipeline.store.chunks.shard_files import use_threads
from fmritok.pipeline.store.group import create_group, lengthen, read_group
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import store_precision
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.runs_table import empty_tables
from fmritok.pipeline.store.tables.switch import replace_tables
from fmritok.pipeline.store.writer import write_run

WINDOW = 256
FRAMES = 1200
SHAPES = {"vae, int8": (27, 3072, "int8", 16), "network, float16": (457, 1, "float16", 64)}


def opening(folder: Path, runs: int) -> None:
    store = str(folder / "many.zarr")
    plan(store, runs)
    finish_half(store, runs)
    fold(store, runs)
    location = Location(store)
    whole = _fastest(lambda: TokenStore(store).group("network"))
    sealed = _fastest(lambda: read_group(location, "network"))
    state = read_group(location, "network")
    tables = _fastest(lambda: [state.table(name) for name in ("runs", "chunks")])
    size = sum(map(len, state.files.values())) / 1e6
    click.echo(
        f"opening a group of {runs:,} runs: {whole:.3f} s; of that, reading and checking "
        f"{len(state.files)} sealed files ({size:.1f} MB) {sealed:.3f} s, tables {tables:.3f} s"
    )


def reading(folder: Path, name: str, rounds: int) -> None:
    n_tokens, dim, precision, chunk = SHAPES[name]
    location = Location(folder / f"{precision}.zarr")
    spec = GroupSpec("g", n_tokens, dim, precision, chunk_frames=chunk)  # type: ignore[arg-type]
    create_group(location, spec, empty_tables(spec.per_run_shapes()))
    state = read_group(location, "g")
    lengths = lengthen(location, state.document, frames=spec.aligned(FRAMES), rows=1)
    replace_tables(location, state.document, {}, lengths=lengths)
    values = np.random.default_rng(0).standard_normal((FRAMES, n_tokens, dim)).astype(np.float32)
    sums = write_run(location, "g", run_id="r", row=0, start=0,
                     stored=store_precision(values, spec.precision))  # fmt: skip
    digits = sums["tokens"]["crc32c"]
    crcs = np.array([int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)], np.uint32)
    array = open_direct(location, "g/tokens")
    starts = np.random.default_rng(1).integers(0, FRAMES - WINDOW, 64).tolist()
    out = np.empty((WINDOW, n_tokens, dim), spec.dtype)
    spent: dict[str, list[float]] = {"compared": [], "not compared": []}
    for _ in range(rounds):
        for way, wanted in (("compared", crcs), ("not compared", None)):
            begin = time.perf_counter()
            for start in starts:
                array.read(start, WINDOW, out, wanted)
            spent[way].append((time.perf_counter() - begin) / len(starts))
    ours, plain = (statistics.median(spent[way]) for way in spent)
    click.echo(
        f"a window of {WINDOW} frames, {name}: {ours * 1e3:.3f} ms compared, {plain * 1e3:.3f} ms "
        f"not compared: {ours / plain:.3f} of the time"
    )


def _fastest(work: Callable[[], object], times: int = 5) -> float:
    def once() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return min(once() for _ in range(times))


@click.command()
@click.option("--runs", default=40_000, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(runs: int, rounds: int) -> None:
    use_threads(1)  # as a loader worker reads
    with tempfile.TemporaryDirectory() as folder:
        for name in SHAPES:
            reading(Path(folder), name, rounds)
        opening(Path(folder), runs)


if __name__ == "__main__":
    main()
