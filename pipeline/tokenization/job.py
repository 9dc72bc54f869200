"""What an executor sends to its workers: the settings of a tokenization, and one run at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fmritok.pipeline.sources.opening import RunFiles
from fmritok.pipeline.store.precision import Precision

__all__ = ["GroupJob", "Job", "RunPart", "RunTask"]


@dataclass(frozen=True)
class GroupJob:
    """Tokenizer and store dtype of one token group.

    Attributes
    ----------
    tokenizer, options : str, str
        Name in the registry, and options as JSON. Each process builds its own tokenizer once.
    precision : {"int8", "float16"}
    """

    tokenizer: str
    options: str
    precision: Precision


@dataclass(frozen=True)
class Job:
    """Settings shared by all tasks of one tokenization. Small: it is sent with every task.

    Attributes
    ----------
    store : str
        Path or URL.
    groups : dict of str to GroupJob
    scratch : str
        Folder for temporary files; empty for the system's.
    threads : int
        Threads of torch; 0 keeps its default.
    topic : str
        Topic of Dask's events to which workers report their progress; empty for none.
    """

    store: str
    groups: dict[str, GroupJob]
    scratch: str = ""
    threads: int = 0
    topic: str = ""


@dataclass(frozen=True)
class RunPart:
    """The part of a run in one group.

    Attributes
    ----------
    group : str
    row : int
        Row in the group's ``runs`` table and per-run arrays.
    start, n_frames : int
        Frames ``start : start + n_frames`` of ``tokens``.
    columns : dict
        Values of the run and its source for the ``runs`` table.
    """

    group: str
    row: int
    start: int
    n_frames: int
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunTask:
    """One run to tokenize, with the groups in which it is missing.

    Attributes
    ----------
    run_id : str
    files : RunFiles
    n_frames : int
        Frames of the file.
    tr : float
        Seconds between frames of the file.
    parts : tuple of RunPart
    """

    run_id: str
    files: RunFiles
    n_frames: int
    tr: float
    parts: tuple[RunPart, ...]
