"""The plan: what of a cohort is to be tokenized, what it will take, and where it will lie."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmritok.pipeline.catalog import Cohort
from fmritok.pipeline.store.ledger import allocate, finished_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import Precision
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import Codec, GroupSpec, open_root
from fmritok.pipeline.store.table import write_table
from fmritok.pipeline.store.verify import seal_root, unseal
from fmritok.pipeline.task import RunTask
from fmritok.pipeline.volumes import RunVolumes
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.intensity import VolumeStatistics

__all__ = ["Estimate", "commit_plan", "estimate", "group_spec"]

#: int8 residuals and float16 take about these parts of their raw size with zstd, on real runs.
_COMPRESSED = {"int8": 0.5, "float16": 0.8}


@dataclass(frozen=True)
class Estimate:
    """What a tokenization will take.

    Attributes
    ----------
    runs, frames : int
        To be tokenized now.
    done : int
        Runs that the store has already.
    problems : int
        Runs that cannot be tokenized.
    raw_bytes, stored_bytes : int
        Tokens before and, roughly, after compression.
    seconds : float
        Of one worker; NaN if the encoder was not timed.
    scratch_bytes : int
        Working files of one worker, for the longest run.
    """

    runs: int
    frames: int
    done: int
    problems: int
    raw_bytes: int
    stored_bytes: int
    seconds: float
    scratch_bytes: int


def group_spec(
    tokenizer: Tokenizer, name: str, precision: Precision, codec: Codec = "zstd"
) -> GroupSpec:
    """Describe the token group that a tokenizer writes."""
    grid = tokenizer.grid
    packages = ("fmritok", "torch", "diffusers", "zarr", "nibabel", "numpy")
    return GroupSpec(
        name=name,
        n_tokens=grid.n_tokens,
        dim=grid.dim,
        precision=precision,
        codec=codec,
        run_arrays=tokenizer.run_arrays,
        static={"coordinates": grid.coordinates},
        provenance=json.loads(json.dumps(tokenizer.provenance())),
        notes=tokenizer.notes() | {"versions": {p: version(p) for p in packages}},
    )


def estimate(
    cohort: Cohort, spec: GroupSpec, location: Location, tokenizer: Tokenizer | None = None
) -> Estimate:
    """Estimate a tokenization; nothing is written.

    Parameters
    ----------
    cohort, spec, location
    tokenizer : Tokenizer, optional
        If given, one frame is encoded to tell the time.
    """
    done = cohort.runs["run_id"].isin(finished_runs(location, spec.name))
    bad = (cohort.runs["problem"] != "") & ~done
    todo = cohort.runs[~done & ~bad]
    frames = int(todo["n_frames"].sum())
    raw = frames * spec.frame_bytes
    shrunk = _COMPRESSED[spec.precision] if spec.codec == "zstd" else 1.0
    longest = int(todo["n_frames"].max()) if len(todo) else 0
    return Estimate(
        runs=len(todo),
        frames=frames,
        done=int(done.sum()),
        problems=int(bad.sum()),
        raw_bytes=raw,
        stored_bytes=int(raw * shrunk),
        seconds=frames * _seconds_a_frame(tokenizer) if tokenizer and frames else float("nan"),
        scratch_bytes=longest * (int(np.prod(SHAPE)) * 2 + spec.n_tokens * spec.dim * 4),
    )


def measured_notes(cohort: Cohort, spec: GroupSpec, tokenizer: Tokenizer) -> dict[str, Any]:
    """Measure what reduced precision costs on one frame of the first readable run.

    Only for a tokenizer that offers it, has been asked for bf16, and is new to the store.
    """
    measure = getattr(tokenizer, "reduced_precision_error", None)
    if measure is None or getattr(tokenizer, "dtype", "fp32") == "fp32":
        return {}
    tokenizer.setup()
    for run in cohort.runs[cohort.runs["problem"] == ""].to_dict("records"):
        try:
            volumes = RunVolumes(
                Path(run["path"]), voxel_statistics=tokenizer.needs_voxel_statistics
            )
        except Exception:  # a bad run has its own report later
            continue
        _, frames = next(volumes.blocks(1))
        found = measure(frames, tokenizer.fit(volumes.statistics))
        return {"bf16_against_fp32": found | {"run_id": run["run_id"], "frame": 0}}
    return {}


def commit_plan(location: Location, spec: GroupSpec, cohort: Cohort) -> list[RunTask]:
    """Give the cohort's runs their frames in the store, and return what is left to do.

    Runs with a problem get a failed record, so that the store tells why they are missing.

    Returns
    -------
    list of RunTask
        Longest first, so that the last worker does not end alone.
    """
    plan = allocate(location, spec, cohort.runs)
    todo = plan[plan["status"] != "done"]
    for run in todo[todo["problem"] != ""].to_dict("records"):
        write_record(location, spec.name, RunRecord(run["run_id"], "failed", reason=run["problem"]))
    _write_phenotypes(location, cohort)
    tasks = [
        RunTask(run["run_id"], str(run["path"]), run["row"], run["start"], run["n_frames"])
        for run in todo[todo["problem"] == ""].to_dict("records")
    ]
    return sorted(tasks, key=lambda task: (-task.n_frames, task.row))


def _write_phenotypes(location: Location, cohort: Cohort) -> None:
    """Put the cohort's subjects into the store's table; other cohorts' rows stay."""
    if cohort.phenotypes.empty:
        if not location.exists("phenotypes"):
            seal_root(location)
        return
    known = TokenStore(location.url).phenotypes()
    others = known[known["dataset"] != cohort.dataset]
    table = pd.concat([others, cohort.phenotypes], ignore_index=True)
    root = open_root(location, create=True)
    unseal(root)
    write_table(root, "phenotypes", table)
    seal_root(location)


def _seconds_a_frame(tokenizer: Tokenizer) -> float:
    """Time one frame of noise: nothing in it is background."""
    tokenizer.setup()
    frame = np.random.default_rng(0).uniform(1, 100, (1, *SHAPE)).astype(np.float32)
    still = np.ones(SHAPE, np.float32)
    intensity = tokenizer.fit(VolumeStatistics(100.0, still, still))
    tokenizer.encode(frame, intensity)
    start = time.perf_counter()
    tokenizer.encode(frame, intensity)
    return time.perf_counter() - start
