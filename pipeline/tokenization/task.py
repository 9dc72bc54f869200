"""The task of an executor: read one run once, encode it for each group, write tokens and record."""

from __future__ import annotations

import json
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from fmritok.errors import FmritokError, MachineError, RunError, expected
from fmritok.faults import Place, stored, told_apart
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import RunSource, open_run, source_sha256
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import store_precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.writer import refuse_not_finite, write_run
from fmritok.pipeline.tokenization.encoding import RunTokens, SeriesEncoding, VolumeEncoding
from fmritok.pipeline.tokenization.job import Job, RunPart, RunTask
from fmritok.pipeline.tokenization.telling import Follow, Teller
from fmritok.quantities import counted
from fmritok.tokenizers.base import SeriesTokenizer, Tokenizer, VolumeTokenizer
from fmritok.tokenizers.registry import build_tokenizer

__all__ = ["fail_run", "ready_tokenizer", "tokenize_run"]

Encoding = VolumeEncoding | SeriesEncoding

#: Threads of one worker load weights once, and share them.
_LOADING = threading.Lock()


@lru_cache(maxsize=8)
def ready_tokenizer(name: str, options: str) -> Tokenizer:
    """Build a tokenizer and load its weights. Cached in each process."""
    tokenizer = build_tokenizer(name, json.loads(options))
    tokenizer.setup()
    return tokenizer


def tokenize_run(task: RunTask, job: Job, follow: Follow | None = None) -> dict[str, RunRecord]:
    """Tokenize one run, and write a record of success or failure for each group.

    An unreadable run fails in all groups. A run refused by one tokenizer fails in that group.

    Parameters
    ----------
    task : RunTask
    job : Job
    follow : callable, optional
        Told now and then how much of the run is done.

    Returns
    -------
    dict of str to RunRecord
        Records by group, with status ``done``, or ``failed`` and the reason.

    Raises
    ------
    MachineError
        If the machine or the configuration is at fault: other runs would fail, too. Nothing is
        recorded.
    """
    location = Location(job.store)
    with ExitStack() as held:
        frames = task.n_frames + sum(part.n_frames for part in task.parts)
        teller = Teller(task.run_id, frames, follow, job.topic)
        work = _RunWork(task, job, location, held, teller)
        try:
            work.read()
        except Exception as error:
            work.fail(list(work.encodings), error)
        for part in task.parts:
            if part.group in work.encodings:
                try:
                    work.records[part.group] = work.encode_and_write(part)
                except Exception as error:
                    work.fail([part.group], error)
        for part in task.parts:
            _record(location, part.group, work.records[part.group])
    return work.records


def fail_run(task: RunTask, job: Job, reason: str) -> dict[str, RunRecord]:
    """Record in all groups that a run cannot be tokenized."""
    record = RunRecord(task.run_id, "failed", reason=reason)
    for part in task.parts:
        _record(Location(job.store), part.group, record)
    return {part.group: record for part in task.parts}


def _record(location: Location, group: str, record: RunRecord) -> None:
    stored(lambda: write_record(location, group, record), location.url, record.run_id)


class _RunWork:
    """State of one task: running encodings, and records of finished ones."""

    def __init__(
        self, task: RunTask, job: Job, location: Location, held: ExitStack, teller: Teller
    ) -> None:
        self._task, self._job, self._location, self._held = task, job, location, held
        self._teller = teller
        self._scratch = Path(job.scratch) if job.scratch else None
        self._clock = _Clock()
        self._source: RunSource
        #: None before the first block.
        self.encodings: dict[str, Encoding | None] = {part.group: None for part in task.parts}
        self.records: dict[str, RunRecord] = {}

    def read(self) -> None:
        """Read the run once, and pass every block to every encoding."""
        clock, task = self._clock, self._task
        with clock("setup"):
            if self._job.threads:
                import torch

                torch.set_num_threads(self._job.threads)
            tokenizers = {}
            for group, made in self._job.groups.items():
                if group in self.encodings:
                    where = f"{made.tokenizer} of group {group}"
                    with told_apart("setup", where), _LOADING:
                        tokenizers[group] = ready_tokenizer(made.tokenizer, made.options)
        with clock("read"), self._at("source"):
            source = self._source = open_run(task.files)
        if source.n_frames != task.n_frames:
            raise RunError(
                expected("Run file", task.files.path,
                         f"{counted(task.n_frames, 'frame')}, as catalogued",
                         source.n_frames, "The file changed: run the same command again.")
            )  # fmt: skip
        with clock("setup"):
            self._begin(tokenizers)
        blocks = checked_blocks(source, str(task.files.path))
        while self.encodings:
            with clock("read"), self._at("source"):
                block = next(blocks, None)
            if block is None:
                return
            with clock("preprocess"):
                for consumer in {e.consumer: None for e in self.encodings.values() if e}:
                    try:
                        with self._at("work"):
                            consumer.add(block)
                    except Exception as error:
                        of = [g for g, e in self.encodings.items() if e and e.consumer is consumer]
                        self.fail(of, error)
            self._teller.add(len(block))

    def _begin(self, tokenizers: dict[str, Tokenizer]) -> None:
        """Start the encodings. Tokenizers of volumes share the placed volumes."""
        source = self._source
        by_frame = {g: t for g, t in tokenizers.items() if isinstance(t, VolumeTokenizer)}
        unsuited = {g: t.problem(source.space) for g, t in by_frame.items()}
        suited = {g: t for g, t in by_frame.items() if not unsuited[g]}
        if suited:
            statistics = any(t.needs_voxel_statistics for t in suited.values())
            with self._at("work"):
                volumes = RunVolumes(source, voxel_statistics=statistics, scratch=self._scratch)
            self._held.callback(volumes.close)
        for group, tokenizer in tokenizers.items():
            try:
                if group in suited:
                    self.encodings[group] = VolumeEncoding(suited[group], volumes, self._scratch)
                elif group in by_frame:
                    raise RunError(
                        expected("Run", self._task.files.path, unsuited[group],
                                 source.space.description, "Take the runs' volumes.")
                    )  # fmt: skip
                else:
                    assert isinstance(tokenizer, SeriesTokenizer)
                    with self._at("work"):
                        self.encodings[group] = SeriesEncoding(
                            tokenizer, source, self._task.tr, self._scratch
                        )
            except Exception as error:
                self.fail([group], error)

    def encode_and_write(self, part: RunPart) -> RunRecord:
        """Encode the run for one group, write the tokens, and return the record."""
        encoding = self.encodings.pop(part.group)
        assert encoding is not None
        clock = _Clock(self._clock.seconds)
        with clock("encode"), self._at("work"):
            encoded = encoding.finish(self._teller.add)
        self._held.callback(encoded.tokens.close)
        with clock("read"), self._at("source"):
            source = source_sha256(self._task.files, data=self._source.source_sha256)
        with clock("write"):
            checksums = self._write(part, encoded)
        return RunRecord(
            run_id=self._task.run_id,
            status="done",
            start=part.start,
            n_frames=part.n_frames,
            checksums=checksums,
            row=part.row,
            columns=part.columns,
            source_sha256=source,
            normalizer=dict(encoded.scalars),
            placement=encoded.description,
            seconds=clock.seconds,
        )

    def _write(self, part: RunPart, encoded: RunTokens) -> dict[str, dict[str, str]]:
        if len(encoded.tokens) != part.n_frames:
            raise RunError(
                expected("Tokens", f"of run {self._task.run_id}",
                         f"{counted(part.n_frames, 'frame')}, as planned", len(encoded.tokens),
                         "Run the same command again.")
            )  # fmt: skip
        with self._at("work"):
            values = store_precision(
                encoded.tokens,
                self._job.groups[part.group].precision,
                where=f"run {self._task.run_id}",
                device=encoded.device,
            )
            refuse_not_finite(self._task.run_id, encoded.arrays)
        encoded.tokens.close()
        return stored(
            lambda: write_run(
                self._location,
                part.group,
                run_id=self._task.run_id,
                row=part.row,
                start=part.start,
                stored=values,
                run_arrays=encoded.arrays,
            ),
            self._location.url,
            self._task.run_id,
        )

    def _at(self, place: Place) -> AbstractContextManager[None]:
        """Convert faults of the machine, such as a full disk, to ``MachineError``."""
        folder = self._scratch or tempfile.tempdir or "for temporary files"
        where = folder if place == "work" else self._task.files.path
        return told_apart(place, where, self._task.run_id)

    def fail(self, groups: list[str], error: Exception) -> None:
        """Record a failure of the run in groups. Faults of the machine are raised."""
        if isinstance(error, MachineError):
            raise error
        known = isinstance(error, FmritokError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        for group in groups:
            self.encodings.pop(group, None)
            self.records[group] = RunRecord(
                self._task.run_id,
                "failed",
                reason=reason,
                traceback="".join(traceback.format_exception(error)),
            )


class _Clock:
    """Total wall time by phase."""

    def __init__(self, before: dict[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(before or {})

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent = self.seconds.get(phase, 0.0) + time.perf_counter() - start
        self.seconds[phase] = round(spent, 4)
