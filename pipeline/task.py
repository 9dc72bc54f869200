"""Tokenize one run: read, normalize, encode, write, record. The unit of work of every executor."""

from __future__ import annotations

import errno
import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from fmritok.pipeline.errors import FmritokError, NoSpaceError, expected
from fmritok.pipeline.scratch import ScratchArray
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import Precision, store_precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.writer import write_run
from fmritok.pipeline.volumes import RunVolumes
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.registry import build_tokenizer

__all__ = ["GroupJob", "RunTask", "tokenize_run"]


@dataclass(frozen=True)
class GroupJob:
    """What all tasks of one tokenization share; small, because it travels with every task.

    Attributes
    ----------
    store : str
        Path or URL.
    group : str
    tokenizer, options : str, str
        Name in the registry and its options as JSON: each process builds its own, once.
    precision : {"int8", "float16"}
    scratch : str
        Folder for working files; empty for the system's.
    threads : int
        Threads for the encoder; 0 leaves them alone.
    """

    store: str
    group: str
    tokenizer: str
    options: str
    precision: Precision
    scratch: str = ""
    threads: int = 0


@dataclass(frozen=True)
class RunTask:
    """One run to tokenize, with its row and frames in the group."""

    run_id: str
    path: str
    row: int
    start: int
    n_frames: int


@lru_cache(maxsize=2)
def ready_tokenizer(name: str, options: str) -> Tokenizer:
    """Build a tokenizer and load its weights, once per process."""
    tokenizer = build_tokenizer(name, json.loads(options))
    tokenizer.setup()
    return tokenizer


def tokenize_run(task: RunTask, job: GroupJob) -> RunRecord:
    """Tokenize one run and write its record, whatever becomes of it.

    Parameters
    ----------
    task : RunTask
    job : GroupJob

    Returns
    -------
    RunRecord
        With status ``done``, or ``failed`` and the reason.

    Raises
    ------
    NoSpaceError
        If a disk is full: that is not the run's fault, and the others would fail too.
    """
    location = Location(job.store)
    with _full_disk_told_apart(task, job):
        try:
            record = _encode_and_write(task, job, location)
        except Exception as error:
            if _is_full_disk(error):
                raise
            known = isinstance(error, FmritokError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            record = RunRecord(
                task.run_id, "failed", reason=reason, traceback=traceback.format_exc()
            )
        write_record(location, job.group, record)
    return record


def _encode_and_write(task: RunTask, job: GroupJob, location: Location) -> RunRecord:
    clock = _Clock()
    with clock("setup"):
        if job.threads:
            import torch

            torch.set_num_threads(job.threads)
        tokenizer = ready_tokenizer(job.tokenizer, job.options)
    scratch = Path(job.scratch) if job.scratch else None
    with clock("read"):
        volumes = RunVolumes(
            Path(task.path), voxel_statistics=tokenizer.needs_voxel_statistics, scratch=scratch
        )
    with volumes:
        if volumes.n_frames != task.n_frames:
            raise FmritokError(
                expected("Run file", task.path, f"{task.n_frames} frames, as catalogued",
                         volumes.n_frames, "The file changed: run the same command again.")
            )  # fmt: skip
        intensity = tokenizer.fit(volumes.statistics)
        grid = tokenizer.grid
        tokens = ScratchArray((task.n_frames, grid.n_tokens, grid.dim), np.float32, scratch)
        with clock("encode"):
            for first, block in volumes.blocks():
                tokens[first : first + len(block)] = tokenizer.encode(block, intensity)
    with clock("write"):
        stored = store_precision(tokens, job.precision, where=f"run {task.run_id}")
        tokens.close()
        checksums = write_run(
            location,
            job.group,
            run_id=task.run_id,
            row=task.row,
            start=task.start,
            stored=stored,
            run_arrays=intensity.arrays,
        )
    return RunRecord(
        run_id=task.run_id,
        status="done",
        start=task.start,
        n_frames=task.n_frames,
        checksums=checksums,
        source_sha256=volumes.source_sha256,
        normalizer=dict(intensity.scalars),
        placement=volumes.placement.description,
        seconds=clock.seconds,
    )


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - start, 4)


def _is_full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _full_disk_told_apart(task: RunTask, job: GroupJob) -> Iterator[None]:
    """Turn a full disk into the one error that stops a tokenization."""
    try:
        yield
    except OSError as error:
        if not _is_full_disk(error):
            raise
        raise NoSpaceError(
            expected("Disk", f"of {job.store} or of the scratch folder",
                     f"room for run {task.run_id}", error.strerror or "none left",
                     "Free some space, or move with --store or --scratch; then run the same "
                     "command: finished runs are kept.")
        ) from error  # fmt: skip
