"""Measure time and memory of plan, resume scan and finalize for 100,000 runs.

    python benchmarks/speed/scale.py --runs 100000

Runs and records are simulated; no tokens are written. Each phase runs in a separate process and has
its own peak memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pandas as pd

from fmritok.pipeline.catalog.cohort import COLUMNS, Cohort
from fmritok.pipeline.store.ledger import finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.tokenization.estimate import estimate
from fmritok.pipeline.tokenization.plan import commit_plan, plan_group
from fmritok.tokenizers.registry import build_tokenizer

FRAMES = 490


def cohort(n: int) -> Cohort:
    """Simulate a catalogue of n runs of 490 frames."""
    table = pd.DataFrame({"run_id": [f"ukb_{1_000_000 + i}_2_rest" for i in range(n)]})
    table["subject"] = [str(1_000_000 + i) for i in range(n)]
    table = table.assign(dataset="ukb", session="2", task="rest", site="11025", family="",
                         tr=0.735, space="MNI152NLin6Asym", n_frames=FRAMES, problem="",
                         motion=0.1, right="", warp="", mask="",
                         source_bytes="1000000000", source_time="1000000000000000000")  # fmt: skip
    table["source"] = table["path"] = [f"{s}_20227_2_0/rest.nii.gz" for s in table["subject"]]
    table = table.reindex(columns=COLUMNS, fill_value="")
    return Cohort("ukb", table, pd.DataFrame({"path": [], "reason": []}, dtype=str))


def group():
    return plan_group(build_tokenizer("network", {}), {})


def plan(store: str, n: int) -> int:
    found = estimate(cohort(n), group(), Location(store))
    assert found.done == 0
    return len(commit_plan(Location(store), [group()], cohort(n)))


def finish_half(store: str, n: int) -> int:
    """Write the records of every other run, as workers would."""
    done = TokenStore(store).group("network").all_runs.iloc[::2]
    location, spec = Location(store), group().spec

    def write(run) -> None:
        n_chunks = -(-int(run.n_frames) // spec.chunk_frames)
        checksums = {"tokens": {"sha256": "0" * 64, "crc32c": "89abcdef" * n_chunks}}
        rows = {name: {"sha256": "1" * 64, "crc32c": "01234567"} for name in spec.per_run_shapes()}
        record = RunRecord(run.run_id, "done", int(run.start), int(run.n_frames),
                           checksums=checksums | rows, seconds={"read": 1.0, "encode": 2.0},
                           row=int(run.row),
                           columns=dict(source_bytes="1000000000", source_tr=0.735,
                                        source_time="1000000000000000000",
                                        source_frames=FRAMES, source=run.source))  # fmt: skip
        write_record(location, "network", record)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, done.itertuples()))
    return len(done)


def resume(store: str, n: int) -> int:
    assert estimate(cohort(n), group(), Location(store)).done == -(-n // 2)
    return len(commit_plan(Location(store), [group()], cohort(n)))


def fold(store: str, n: int) -> int:
    return int((finalize(Location(store), "network")["status"] == "done").sum())


def open_for_training(store: str, n: int) -> int:
    return len(TokenStore(store).group("network").runs)


PHASES = {f.__name__: f for f in (plan, finish_half, resume, fold, open_for_training)}


@click.command()
@click.option("--runs", default=100_000, show_default=True)
@click.option("--phase", hidden=True)
@click.option("--store", hidden=True)
def main(runs: int, phase: str | None, store: str | None) -> None:
    if phase and store:
        start = time.perf_counter()
        count = PHASES[phase](store, runs)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{phase.replace('_', ' '):18s} {count:7,} runs  {seconds:6.1f} s  peak {peak:.2f} GiB"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in PHASES:
            subprocess.run(
                [sys.executable, __file__, "--runs", str(runs), "--phase", name, "--store",
                 str(Path(folder) / "t.zarr")], check=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
