"""The plan: what of a cohort is to be tokenized, what it will take, and where it will lie."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmritok.pipeline.catalog import Cohort
from fmritok.pipeline.errors import FmritokError, expected
from fmritok.pipeline.store.group import is_created
from fmritok.pipeline.store.ledger import finished_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import Precision
from fmritok.pipeline.store.schema import Codec, GroupSpec
from fmritok.pipeline.task import GroupJob
from fmritok.pipeline.volumes import RunVolumes
from fmritok.tokenizers.base import Tokenizer, VolumeTokenizer
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.intensity import VolumeStatistics

__all__ = [
    "Estimate", "PlannedGroup", "check_input", "estimate", "plan_group", "with_measured_notes",
]  # fmt: skip

#: int8 residuals and float16 take about these parts of their raw size with zstd, on real runs.
_COMPRESSED = {"int8": 0.5, "float16": 0.8}


@dataclass(frozen=True)
class PlannedGroup:
    """One token group that is to be written.

    Attributes
    ----------
    tokenizer : Tokenizer
    job : GroupJob
        The same tokenizer, as workers build it.
    spec : GroupSpec
    """

    tokenizer: Tokenizer
    job: GroupJob
    spec: GroupSpec

    def runs_of(self, cohort: Cohort) -> pd.DataFrame:
        """Return the cohort's runs with the frames and repetition time of this group's tokens."""
        runs = cohort.runs.assign(
            source_frames=cohort.runs["n_frames"], source_tr=cohort.runs["tr"]
        )
        found = [
            self.tokenizer.timing(int(n), float(tr)) if n > 0 and tr > 0 else (0, tr)
            for n, tr in zip(runs["n_frames"], runs["tr"], strict=True)
        ]
        runs["n_frames"] = [n for n, _ in found]
        runs["tr"] = [tr for _, tr in found]
        return runs


@dataclass(frozen=True)
class Estimate:
    """What it will take to write one token group.

    Attributes
    ----------
    group : str
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

    group: str
    runs: int
    frames: int
    done: int
    problems: int
    raw_bytes: int
    stored_bytes: int
    seconds: float
    scratch_bytes: int


def plan_group(
    tokenizer: Tokenizer,
    options: dict[str, Any],
    *,
    name: str | None = None,
    precision: Precision | None = None,
    codec: Codec = "zstd",
) -> PlannedGroup:
    """Describe the token group that a tokenizer writes.

    Parameters
    ----------
    tokenizer : Tokenizer
    options : dict
        That it was built with.
    name : str, optional
        Of the group; default: the tokenizer's.
    precision : {"int8", "float16"}, optional
        Default: the tokenizer's.
    codec : {"zstd", "none"}
    """
    grid = tokenizer.grid
    stored: Precision = precision or tokenizer.default_precision  # type: ignore[assignment]
    packages = ("fmritok", "torch", "diffusers", "zarr", "nibabel", "nilearn", "numpy", "scipy")
    spec = GroupSpec(
        name=name or tokenizer.name,
        n_tokens=grid.n_tokens,
        dim=grid.dim,
        precision=stored,
        codec=codec,
        chunk_frames=tokenizer.chunk_frames,
        run_arrays=tokenizer.run_arrays,
        static={"coordinates": grid.coordinates, **grid.static},
        provenance=json.loads(json.dumps(tokenizer.provenance())),
        notes=tokenizer.notes() | {"versions": {p: version(p) for p in packages}},
    )
    return PlannedGroup(tokenizer, GroupJob(tokenizer.name, json.dumps(options), stored), spec)


def estimate(
    cohort: Cohort, planned: PlannedGroup, location: Location, *, timed: bool = False
) -> Estimate:
    """Estimate what one group takes; nothing is written.

    Parameters
    ----------
    cohort, planned, location
    timed : bool
        Whether to encode one frame to tell the time, where a tokenizer works frame by frame.
    """
    spec, runs = planned.spec, planned.runs_of(cohort)
    done = runs["run_id"].isin(finished_runs(location, spec.name))
    bad = (runs["problem"] != "") & ~done
    todo = runs[~done & ~bad]
    frames = int(todo["n_frames"].sum())
    raw = frames * spec.frame_bytes
    shrunk = _COMPRESSED[spec.precision] if spec.codec == "zstd" else 1.0
    longest = int(todo["n_frames"].max()) if len(todo) else 0
    by_frame = isinstance(planned.tokenizer, VolumeTokenizer)
    seconds = float("nan")
    if timed and frames and isinstance(planned.tokenizer, VolumeTokenizer):
        seconds = frames * _seconds_a_frame(planned.tokenizer)
    spool = int(np.prod(SHAPE)) * 2 if by_frame else 0
    return Estimate(
        group=spec.name,
        runs=len(todo),
        frames=frames,
        done=int(done.sum()),
        problems=int(bad.sum()),
        raw_bytes=raw,
        stored_bytes=int(raw * shrunk),
        seconds=seconds,
        scratch_bytes=longest * (spool + spec.n_tokens * spec.dim * 4),
    )


def with_measured_notes(
    cohort: Cohort, planned: PlannedGroup, location: Location, scratch: Path | None
) -> PlannedGroup:
    """Add what reduced precision costs on one frame of the first readable run.

    Only for a tokenizer that was asked for reduced precision, and for a group that is new.
    """
    tokenizer, spec = planned.tokenizer, planned.spec
    if (
        not isinstance(tokenizer, VolumeTokenizer)
        or not tokenizer.is_approximate
        or is_created(location, spec.name)
    ):
        return planned
    tokenizer.setup()
    for run in cohort.runs[cohort.runs["problem"] == ""].to_dict("records"):
        try:
            volumes = RunVolumes.read(
                Path(run["path"]),
                voxel_statistics=tokenizer.needs_voxel_statistics,
                scratch=scratch,
            )
        except Exception:  # a bad run has its own report later
            continue
        with volumes:
            _, frames = next(volumes.blocks(1))
            found = tokenizer.measure_error(frames, tokenizer.fit(volumes.statistics))
        note = {"bf16_against_fp32": found | {"run_id": run["run_id"], "frame": 0}}
        return replace(planned, spec=replace(spec, notes={**spec.notes, **note}))
    return planned


def check_input(cohort_input: str, groups: Sequence[PlannedGroup]) -> None:
    """Refuse a tokenizer that cannot take what was catalogued.

    Raises
    ------
    FmritokError
    """
    for planned in groups:
        if cohort_input == "surface" and isinstance(planned.tokenizer, VolumeTokenizer):
            raise FmritokError(
                expected("Tokenizer", planned.tokenizer.name, "volumes", "--input surface",
                         "Tokenize the volumes in a call of its own, into the same store.")
            )  # fmt: skip


def _seconds_a_frame(tokenizer: VolumeTokenizer) -> float:
    """Time one frame of noise: nothing in it is background."""
    tokenizer.setup()
    frame = np.random.default_rng(0).uniform(1, 100, (1, *SHAPE)).astype(np.float32)
    still = np.ones(SHAPE, np.float32)
    intensity = tokenizer.fit(VolumeStatistics(100.0, still, still))
    tokenizer.encode(frame, intensity)
    start = time.perf_counter()
    tokenizer.encode(frame, intensity)
    return time.perf_counter() - start
