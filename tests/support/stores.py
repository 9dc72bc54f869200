"""Small stores of random tokens, written as the pipeline writes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import IDENTITY
from fmritok.pipeline.store.precision import Precision, store_precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import GroupSpec
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
) -> dict[str, np.ndarray]:
    """Write a store of runs of some lengths through the real write path.

    Tokens are random, or what ``values`` gives for the number and the length of a run. Returns
    each run's float32 values before they were stored.
    """
    spec = GroupSpec(
        name="vae",
        n_tokens=n_tokens,
        dim=dim,
        precision=precision,
        chunk_frames=8,
        shard_frames=32,
        static={"coordinates": np.zeros((n_tokens, 3), np.float32)},
        provenance={"tokenizer": "vae"},
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
