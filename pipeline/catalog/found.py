"""What an adapter finds in a cohort: files of runs, events, skipped and doubtful files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fmritok.errors import CatalogError, expected, wrong_usage
from fmritok.pipeline.catalog.events import Event
from fmritok.pipeline.catalog.run_checks import FAULTS_OF_FILES
from fmritok.pipeline.headers.sidecar import Sidecar
from fmritok.pipeline.sources.opening import RunFiles
from fmritok.progress import tracked

__all__ = ["Found", "RunFile", "checked_root", "gather"]

Part = TypeVar("Part")
_NAN = float("nan")
#: Threads that read folders. On network file systems they mostly wait.
_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class RunFile(RunFiles):
    """One run found by an adapter, before its header is read: its files, and what names say.

    Each file may be a path into a zip file.

    Attributes
    ----------
    run_id : str
        Unique in the cohort: letters, digits, ``_`` and ``-``. The same for all representations of
        the run.
    subject, session, task, site, family : str
        Ids as text, as in the cohort's files; empty if missing.
    space : str
        Template space of the samples, after `warp` is applied.
    sidecar : Sidecar
        Timing from sidecars.
    usual_tr : tuple of float
        Repetition times of such scans in the cohort, s; empty if unknown.
    documented_tr : float
        Replacement for an implausible repetition time in the header, s; NaN if unknown.
    motion : float
        Mean framewise displacement or relative RMS, mm; NaN if unknown.
    problem : str
        Why the run cannot be tokenized, if known from its file names.
    """

    run_id: str
    subject: str
    session: str = ""
    task: str = ""
    site: str = ""
    family: str = ""
    space: str = "MNI152NLin6Asym"
    sidecar: Sidecar = field(default_factory=Sidecar)
    usual_tr: tuple[float, ...] = ()
    documented_tr: float = _NAN
    motion: float = _NAN
    problem: str = ""


@dataclass
class Found:
    """Files found by an adapter in a cohort, or in one part of it.

    Attributes
    ----------
    files : list of RunFile
    left_out : list of (Path, str)
        Skipped files and reasons. Equal reasons have equal words.
    questioned : list of (Path, str)
        Used files and doubts about them. Equal doubts have equal words.
    events : list of (str, list of Event)
        Run ids and events of these runs.
    subject_tables : list of Path
        Phenotype tables of single subjects.
    """

    files: list[RunFile] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    questioned: list[tuple[Path, str]] = field(default_factory=list)
    events: list[tuple[str, list[Event]]] = field(default_factory=list)
    subject_tables: list[Path] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Add the files found in another part."""
        self.files += other.files
        self.left_out += other.left_out
        self.questioned += other.questioned
        self.events += other.events
        self.subject_tables += other.subject_tables


def checked_root(root: Path) -> Path:
    """Check that the root of a cohort is a folder, and return it.

    Raises
    ------
    CatalogError
        If it is not a folder.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise wrong_usage(CatalogError(
            expected("Data root", root, "a folder", "a file" if root.exists() else "nothing there",
                     "Check --root (or DATA_ROOT).")
        ))  # fmt: skip
    return root


def gather(
    search: Callable[[Part], Found],
    parts: Iterable[Part],
    *,
    where: Callable[[Part], Path] | None = None,
) -> Found:
    """Search the parts of a cohort in parallel, and merge the results.

    If a part has an unreadable file, it is skipped and reported. The others are still searched.

    Parameters
    ----------
    search : callable
        Searches one part.
    parts : iterable
        Parts of the cohort, such as folders of subjects.
    where : callable, optional
        Returns the path of a part, for errors without a file name.
    """

    def safe(part: Part) -> Found:
        try:
            return search(part)
        except FAULTS_OF_FILES as error:
            if isinstance(error, OSError) and isinstance(error.filename, str):
                return Found(left_out=[(Path(error.filename), f"cannot be read: {error.strerror}")])
            if where is None:
                raise
            reason = f"cannot be searched: {type(error).__name__}: {error}"
            return Found(left_out=[(where(part), reason)])

    found, every = Found(), list(parts)
    with ThreadPoolExecutor(_THREADS) as pool:
        for one in tracked(pool.map(safe, every), len(every), "folders"):
            found.add(one)
    return found
