"""Small stores of random tokens, written as the pipeline writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import IDENTITY
from fmritok.pipeline.store.precision import Precision, store_precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.pipeline.store.writer import write_run


def table_of_runs(
    lengths: list[int], *, subjects: list[str] | None = None, tr: float = 0.72
) -> pd.DataFrame:
    """Make a table of catalogued runs, as the pipeline hands it to the store."""
    subjects = subjects or [f"{100 + i}" for i in range(len(lengths))]
    return pd.DataFrame(
        {
            "run_id": [f"demo_{s}_run{i}" for i, s in enumerate(subjects)],
            "dataset": "demo",
            "subject": subjects,
            "session": "3T",
            "task": "rest",
            "site": "",
            "family": [f"F{s}" for s in subjects],
            "tr": tr,
            "space": "MNI152NLin6Asym",
            "source": "x.nii.gz",
            "n_frames": lengths,
            "problem": "",
        }
    )


def write_store(
    location: Location,
    lengths: list[int],
    *,
    n_tokens: int = 27,
    dim: int = 48,
    precision: Precision = "int8",
    subjects: list[str] | None = None,
    seed: int = 0,
    values: Callable[[int, int], np.ndarray] | None = None,
    static: dict[str, np.ndarray] | None = None,
    provenance: dict[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Write a store of runs of some lengths through the real write path.

    Tokens are random, or what ``values`` gives for the number and the length of a run. ``static``
    are arrays beside coordinates. Returns each run's float32 values before they were stored.
    """
    spec = GroupSpec(
        name="vae",
        n_tokens=n_tokens,
        dim=dim,
        precision=precision,
        chunk_frames=8,
        shard_frames=32,
        static={"coordinates": np.zeros((n_tokens, 3), np.float32), **(static or {})},
        provenance=provenance or {"tokenizer": "vae"},
    )
    plan = allocate(location, spec, table_of_runs(lengths, subjects=subjects))
    generator = np.random.default_rng(seed)
    written = {}
    for i, run in enumerate(plan.to_dict("records")):
        n = run["n_frames"]
        if values is None:
            x = 3 + 0.1 * generator.standard_normal((n, n_tokens, dim))
        else:
            x = values(i, n)
        x = written[run["run_id"]] = x.astype(np.float32)
        sums = write_run(
            location,
            "vae",
            run_id=run["run_id"],
            row=run["row"],
            start=run["start"],
            stored=store_precision(x, precision),
        )
        write_record(
            location,
            "vae",
            RunRecord(
                run["run_id"],
                "done",
                run["start"],
                n,
                row=run["row"],
                columns={name: run[name] for name in [*IDENTITY[1:], "source"]},
                checksums=sums,
            ),
        )
    finalize(location, "vae")
    return written


NAMES = ["Visual", "<b>Somato</b>", "Default", "Other"]


def write_two_groups(
    out: Path, *, n_subjects: int = 12, frames: int = 48, failed: str = "", phenotypes: bool = True
) -> str:
    """Write the groups ``network`` (8 parcels, TR 2 s) and ``cells`` (6 cells of 5, TR 1 s).

    The first two parcels go together in men. ``failed`` is the reason for which one run more has
    no tokens in ``network``.
    """
    location, rng = Location(out), np.random.default_rng(0)
    subjects = [f"{100 + i // 2}" for i in range(2 * n_subjects)]
    rows = pd.DataFrame(
        {"run_id": [f"demo_{s}_{i % 2}" for i, s in enumerate(subjects)], "dataset": "demo",
         "subject": subjects, "session": "", "task": ["rest", "motor"] * n_subjects, "family": "",
         "site": "", "tr": 2.0, "space": "", "source": "", "problem": "", "n_frames": frames}
    )  # fmt: skip
    _write(location, "network", rows, failed, _parcels(rng, frames))
    _write(location, "cells", rows.assign(tr=1.0, n_frames=2 * frames), "", _cells(rng, frames))
    if phenotypes:
        people = pd.DataFrame(
            {"dataset": "demo", "subject": sorted(set(subjects)), "session": "",
             "sex": ["M", "F"] * (n_subjects // 2), "age": rng.uniform(20, 60, n_subjects),
             "mean_fd": rng.uniform(0.1, 0.4, n_subjects)}
        )  # fmt: skip
        write_annotations(location, {"phenotypes": people})
    return str(out)


def _parcels(rng: np.random.Generator, frames: int) -> dict[str, Any]:
    def values(number: int) -> np.ndarray:
        x = rng.standard_normal((frames, 8))
        x[:, 1] += 4 * (number // 2 % 2 == 0) * x[:, 0]
        return ((x - x.mean(0)) / x.std(0)).astype(np.float32)[:, :, None]

    layout = {"parcels": [f"p{i}" for i in range(8)], "networks": NAMES}
    static = {"network": np.arange(8, dtype=np.int32) // 2,
              "coordinates": rng.uniform(-60, 60, (8, 3)).astype(np.float32)}  # fmt: skip
    return {"shape": (8, 1), "values": values, "static": static,
            "provenance": {"tokenizer": "network", "layout": layout}}  # fmt: skip


def _cells(rng: np.random.Generator, frames: int) -> dict[str, Any]:
    def values(number: int) -> np.ndarray:
        return (3 + 0.1 * rng.standard_normal((2 * frames, 6, 5))).astype(np.float32)

    static = {"coordinates": rng.uniform(-60, 60, (6, 3)).astype(np.float32)}
    return {"shape": (6, 5), "values": values, "static": static,
            "provenance": {"tokenizer": "cells"}}  # fmt: skip


def _write(
    location: Location, name: str, rows: pd.DataFrame, failed: str, made: dict[str, Any]
) -> None:
    n_tokens, dim = made["shape"]
    spec = GroupSpec(
        name=name, n_tokens=n_tokens, dim=dim, precision="float16", chunk_frames=8,
        shard_frames=32, static=made["static"], provenance=made["provenance"],
    )  # fmt: skip
    if failed:
        rows = pd.concat([rows, rows.iloc[:1].assign(run_id="demo_bad", subject="bad")])
    for number, run in enumerate(allocate(location, spec, rows).to_dict("records")):
        columns = {c: run[c] for c in [*IDENTITY[1:], "source"]}
        if run["run_id"] == "demo_bad":
            record = RunRecord("demo_bad", "failed", reason=failed, columns=columns)
        else:
            stored = store_precision(made["values"](number), "float16")
            sums = write_run(location, name, run_id=run["run_id"], row=run["row"],
                             start=run["start"], stored=stored)  # fmt: skip
            record = RunRecord(run["run_id"], "done", run["start"], run["n_frames"],
                               row=run["row"], columns=columns, checksums=sums)  # fmt: skip
        write_record(location, name, record)
    finalize(location, name)
