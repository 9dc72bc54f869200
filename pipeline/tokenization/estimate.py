"""Estimates of a plan: frames, bytes, time, temporary files, and the error of its arithmetic."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fmritok.errors import RunError
from fmritok.pipeline.catalog.cohort import Cohort
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import files_of_row, open_run
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.store.group import is_created
from fmritok.pipeline.store.ledger import finished_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.tokenization.encoding import SeriesEncoding
from fmritok.pipeline.tokenization.plan import PlannedGroup
from fmritok.tokenizers.base import SeriesTokenizer, VolumeTokenizer
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.vae.intensity import VolumeStatistics

__all__ = ["Estimate", "estimate", "with_measured_notes"]

#: Compressed share of the raw size with zstd, measured on real runs, by store dtype.
_COMPRESSED = {"int8": 0.5, "float16": 0.8}
#: How long one run is read to tell the time of all, s.
_READ_S = 3.0


@dataclass(frozen=True)
class Estimate:
    """Estimated effort to write one token group.

    Attributes
    ----------
    group : str
    runs, frames : int
        Runs and frames to tokenize.
    done : int
        Runs that are finished already.
    problems : int
        Runs that cannot be tokenized.
    raw_bytes, stored_bytes : int
        Size of the tokens before compression, and roughly after it.
    seconds : float
        Time of one worker; NaN if it was not measured, or no run can be read.
    scratch_bytes : int
        Temporary files of one worker, for the longest run.
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


def estimate(
    cohort: Cohort, planned: PlannedGroup, location: Location, *, timed: bool = False
) -> Estimate:
    """Estimate the effort for one group, without writing anything.

    Parameters
    ----------
    cohort, planned, location
    timed : bool
        Whether to measure the time: of one frame for tokenizers of volumes, else of a few
        seconds of one run.
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
    if not frames:
        seconds = 0.0
    elif timed and isinstance(planned.tokenizer, VolumeTokenizer):
        seconds = frames * _seconds_a_frame(planned.tokenizer)
    elif timed and isinstance(planned.tokenizer, SeriesTokenizer):
        files = cohort.runs[cohort.runs["run_id"].isin(todo["run_id"])]  # frames before resampling
        seconds = int(files["n_frames"].sum()) * _seconds_a_frame_of(planned.tokenizer, files)
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
    """Add the error of reduced precision, measured on the first readable run, to the notes.

    Only for tokenizers with reduced precision, and for new groups.
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
        except Exception:  # a bad run is reported later
            continue
        with volumes:
            try:
                intensity = tokenizer.fit(volumes.statistics)
            except RunError:
                continue
            _, frames = next(volumes.blocks(1))
            found = tokenizer.measure_error(frames, intensity)
        note = {"bf16_against_fp32": found | {"run_id": run["run_id"], "frame": 0}}
        return replace(planned, spec=replace(spec, notes={**spec.notes, **note}))
    return planned


def _seconds_a_frame(tokenizer: VolumeTokenizer) -> float:
    """Measure the time of one frame of noise, which has no background."""
    tokenizer.setup()
    frame = np.random.default_rng(0).uniform(1, 100, (1, *SHAPE)).astype(np.float32)
    still = np.ones(SHAPE, np.float32)
    intensity = tokenizer.fit(VolumeStatistics(100.0, still, still))
    tokenizer.encode(frame, intensity)
    start = time.perf_counter()
    tokenizer.encode(frame, intensity)
    return time.perf_counter() - start


def _seconds_a_frame_of(tokenizer: SeriesTokenizer, runs: pd.DataFrame) -> float:
    """Time the beginning of the shortest run that can be read; NaN if there is none."""
    for run in runs.sort_values("n_frames").to_dict("records"):
        try:
            tokenizer.setup()
            source = open_run(files_of_row(run))
            encoding = SeriesEncoding(tokenizer, source, float(run["tr"]), None)
            done, start = 0, time.perf_counter()
            for block in checked_blocks(source, str(run["path"])):
                encoding.add(block)
                done += len(block)
                if time.perf_counter() - start > _READ_S:
                    break
            else:
                encoding.finish().tokens.close()
            return (time.perf_counter() - start) / done
        except Exception:  # a bad run has its own report later
            continue
    return float("nan")
