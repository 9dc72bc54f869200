"""Small stores of parcel series with phenotypes, as the pipeline writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import IDENTITY
from fmritok.pipeline.store.precision import store_precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.pipeline.store.writer import write_run

FRAMES = 40

#: From the number of a subject and a generator to its series (frames, parcels).
Series = Callable[[int, np.random.Generator], np.ndarray]


def labelled_store(
    folder: Path,
    series: Series,
    people: pd.DataFrame,
    *,
    networks: list[int],
    runs: int = 2,
    family: Callable[[int], str] = lambda subject: "",
    events: pd.DataFrame | None = None,
) -> Location:
    """Write some runs of each subject, z-scored, on three sites.

    Parameters
    ----------
    folder : Path
    series : callable
    people : pd.DataFrame
        Columns of the subjects, which are numbered from 100 on.
    networks : list of int
        Network of each parcel.
    runs : int
        Of each subject.
    family : callable
    events : pd.DataFrame, optional
    """
    location, rng = Location(folder / "tokens.zarr"), np.random.default_rng(0)
    number = [i // runs for i in range(runs * len(people))]
    subjects = [f"{100 + i}" for i in number]
    rows = pd.DataFrame(
        {"run_id": [f"demo_{s}_{i % runs}" for i, s in enumerate(subjects)], "dataset": "demo",
         "subject": subjects, "session": "", "task": "rest", "family": [family(i) for i in number],
         "tr": 2.0, "site": [("NYU", "UCLA", "KKI")[(i // 2) % 3] for i in number],
         "space": "", "source": "", "problem": "", "n_frames": FRAMES}
    )  # fmt: skip
    spec = GroupSpec(name="network", n_tokens=len(networks), dim=1, precision="float16",
                     chunk_frames=8, shard_frames=32,
                     static={"network": np.array(networks, np.int32)},
                     provenance={"tokenizer": "network"})  # fmt: skip
    for i, run in enumerate(allocate(location, spec, rows).to_dict("records")):
        x = series(number[i], rng)
        x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)[:, :, None]
        sums = write_run(location, "network", run_id=run["run_id"], row=run["row"],
                         start=run["start"], stored=store_precision(x, "float16"))  # fmt: skip
        columns = {name: run[name] for name in [*IDENTITY[1:], "source"]}
        write_record(location, "network", RunRecord(run["run_id"], "done", run["start"], FRAMES,
                     row=run["row"], columns=columns, checksums=sums))  # fmt: skip
    finalize(location, "network")
    people = people.assign(dataset="demo", subject=sorted(set(subjects)), session="")
    tables = {"phenotypes": people} | ({} if events is None else {"events": events})
    write_annotations(location, tables)
    return location
