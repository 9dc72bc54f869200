"""Estimates of a plan: frames, bytes, time, temporary files, and the error of its arithmetic."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from fmritok.quantities import counted
from fmritok.tokenizers.base import SeriesTokenizer, VolumeTokenizer
from fmritok.tokenizers.fidelity import TOLERABLE, TimeCourseError, spread_frames
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.vae.intensity import VolumeStatistics

__all__ = ["Estimate", "error_sentence", "estimate", "measured_error", "with_measured_notes"]

#: Where the notes of a group keep the error of its arithmetic.
_NOTE = "error_of_time_courses"

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
    error : dict, optional
        Of the tokens' time courses: see :func:`measured_error`.
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
    error: Mapping[str, Any] | None = None


def estimate(
    cohort: Cohort,
    planned: PlannedGroup,
    location: Location,
    *,
    timed: bool = False,
    error: Mapping[str, Any] | None = None,
) -> Estimate:
    """Estimate the effort for one group, without writing anything.

    Parameters
    ----------
    cohort, planned, location
    timed : bool
        Whether to measure the time: of one frame for tokenizers of volumes, else of a few
        seconds of one run.
    error : dict, optional
        From :func:`measured_error`.
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
        error=error,
    )


def measured_error(
    cohort: Cohort, planned: PlannedGroup, location: Location, scratch: Path | None = None
) -> dict[str, Any] | None:
    """Measure what a group's arithmetic costs the time courses of its tokens.

    On frames spread over the first run that can be read, with its mask and warp. None if the
    tokenizer's arithmetic is exact, or the group is there already.

    Returns
    -------
    dict
        What :meth:`VolumeTokenizer.measure_error` found, and ``run_id``.
    """
    tokenizer = planned.tokenizer
    if (
        not isinstance(tokenizer, VolumeTokenizer)
        or not tokenizer.is_approximate
        or is_created(location, planned.spec.name)
    ):
        return None
    for run in cohort.runs[cohort.runs["problem"] == ""].to_dict("records"):
        files = files_of_row(run)
        try:
            volumes = RunVolumes.read(
                files, voxel_statistics=tokenizer.needs_voxel_statistics, scratch=scratch
            )
        except Exception:  # a bad run is reported later
            continue
        with volumes:
            try:
                intensity = tokenizer.fit(volumes.statistics)
            except RunError:
                continue
            frames = volumes.frames_at(spread_frames(volumes.n_frames))
            return tokenizer.measure_error(frames, intensity) | {"run_id": run["run_id"]}
    return None


def error_sentence(group: str, error: Mapping[str, Any] | None) -> str:
    """Say what a group's arithmetic costs; empty where that is little."""
    if not error or error["median"] <= TOLERABLE:
        return ""
    found = TimeCourseError(error["median"], error["percentile_95"])
    return (
        f"{group}: the arithmetic {error['arithmetic']} changes the time courses of tokens by "
        f"{found}, measured on {counted(error['frames'], 'frame')} of run {error['run_id']}."
    )


def with_measured_notes(planned: PlannedGroup, error: Mapping[str, Any] | None) -> PlannedGroup:
    """Keep a measured error with the group that is to be made."""
    return planned if error is None else planned.with_notes({_NOTE: dict(error)})


def _seconds_a_frame(tokenizer: VolumeTokenizer) -> float:
    """Measure the time of a frame of noise, which has no background."""
    tokenizer.setup()
    count = tokenizer.timing_frames
    frames = np.random.default_rng(0).uniform(1, 100, (count, *SHAPE)).astype(np.float32)
    still = np.ones(SHAPE, np.float32)
    intensity = tokenizer.fit(VolumeStatistics(100.0, still, still))
    tokenizer.encode(frames[:1], intensity)
    start = time.perf_counter()
    tokenizer.encode(frames, intensity)
    return (time.perf_counter() - start) / count


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
