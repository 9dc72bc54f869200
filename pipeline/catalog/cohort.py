"""The catalogue of a cohort: its runs and annotations, and skipped files with reasons.

Each adapter in :mod:`fmritok.pipeline.datasets` turns a root folder into a :class:`Cohort`. It
reads headers, but no data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import pandas as pd

from fmritok.errors import CatalogError, RunError, expected, wrong_usage
from fmritok.pipeline.catalog.events import Event, events_table
from fmritok.pipeline.catalog.phenotypes import Phenotypes
from fmritok.pipeline.catalog.run_checks import (
    FAULTS_OF_FILES,
    Stamp,
    fetch_problem,
    name_problem,
    nearly_equal,
    stamp_of,
)
from fmritok.pipeline.headers.run_header import looked_at, run_header
from fmritok.pipeline.headers.timing import Sidecar, lone_times, repetition_time
from fmritok.pipeline.store.names import is_run_id
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.text_numbers import first_examples
from fmritok.progress import tracked

__all__ = ["Adapter", "Cohort", "Found", "Input", "RunFile", "build_cohort", "checked_root",
           "gather"]  # fmt: skip

#: Representation of the runs to catalogue.
Input = Literal["volume", "surface"]
Part = TypeVar("Part")
_NAN = float("nan")

COLUMNS = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space", "source",
    "source_bytes", "source_time", "path", "right", "warp", "mask", "motion", "n_frames", "problem",
]  # fmt: skip
#: Columns copied from :class:`RunFile`.
_COPIED = ("run_id", "subject", "session", "task", "site", "family", "space", "motion", "path",
           "right", "warp", "mask")  # fmt: skip
#: Threads that read folders and headers. On network file systems they mostly wait.
_THREADS = 16


@dataclass(frozen=True)
class RunFile:
    """One run found by an adapter, before its header is read.

    Attributes
    ----------
    run_id : str
        Unique in the cohort: letters, digits, ``_`` and ``-``. The same for all representations of
        the run.
    subject, session, task, site, family : str
        Ids as text, as in the cohort's files; empty if missing.
    path : Path
        Volumes, grayordinates, or left hemisphere. May be a path into a zip file.
    space : str
        Template space of the samples, after `warp` is applied.
    sidecar : Sidecar
        Timing from sidecars.
    usual_tr : tuple of float
        Repetition times of such scans in the cohort, s; empty if unknown.
    documented_tr : float
        Replacement for an implausible repetition time in the header, s; NaN if unknown.
    right : Path, optional
        Right hemisphere of a pair of GIFTI files.
    warp : Path, optional
        FSL warp field from the native space of `path` to MNI.
    mask : Path, optional
        Brain mask on the grid of the run.
    motion : float
        Mean framewise displacement or relative RMS, mm; NaN if unknown.
    problem : str
        Why the run cannot be tokenized, if known from its file names.
    """

    run_id: str
    subject: str
    path: Path
    session: str = ""
    task: str = ""
    site: str = ""
    family: str = ""
    space: str = "MNI152NLin6Asym"
    sidecar: Sidecar = field(default_factory=Sidecar)
    usual_tr: tuple[float, ...] = ()
    documented_tr: float = _NAN
    right: Path | None = None
    warp: Path | None = None
    mask: Path | None = None
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


@dataclass(frozen=True)
class Cohort:
    """A catalogued cohort.

    Attributes
    ----------
    dataset : str
        Name of the adapter.
    runs : pd.DataFrame
        One row per run: ``run_id, dataset, subject, session, task, site, family, tr, space,
        source`` (path below the root), ``path, right, warp, mask`` (text, empty if none),
        ``source_bytes, source_time`` (text: sizes in bytes and modification times, ns since 1970,
        of the run's file, right hemisphere, warp and mask, in this order), ``motion`` (mm),
        ``n_frames, problem`` (why it cannot be tokenized, or empty).
    left_out : pd.DataFrame
        ``path, reason``: skipped files.
    questioned : pd.DataFrame
        ``path, reason``: used files with doubts about them.
    phenotypes : pd.DataFrame
        ``dataset, subject, session`` and typed columns. ``session`` is empty in rows for all
        sessions.
    columns : pd.DataFrame
        ``dataset, column, dtype, unit, source, meaning`` of the phenotype columns.
    events : pd.DataFrame
        ``run_id, onset, duration, trial_type``; s.
    """

    dataset: str
    runs: pd.DataFrame
    left_out: pd.DataFrame
    questioned: pd.DataFrame = field(default_factory=lambda: _reasons([]))
    phenotypes: pd.DataFrame = field(default_factory=lambda: Phenotypes().table)
    columns: pd.DataFrame = field(default_factory=lambda: Phenotypes().columns)
    events: pd.DataFrame = field(default_factory=lambda: events_table([]))

    def named(self, name: str) -> Cohort:
        """Return the cohort under another name. Run ids then begin with this name.

        With different names, two cohorts of the same layout can share a store.
        """
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            raise wrong_usage(
                CatalogError(
                    expected(
                        "Name", "of the cohort", "letters, digits and -", name, "Choose another."
                    )
                )
            )
        old = f"{self.dataset}_"
        runs, events = self.runs.copy(), self.events.copy()
        for table in (runs, events):
            table["run_id"] = [f"{name}_{run_id.removeprefix(old)}" for run_id in table["run_id"]]
        others = (t.assign(dataset=name) for t in (runs, self.phenotypes, self.columns))
        runs, phenotypes, columns = others
        return replace(self, dataset=name, runs=runs, phenotypes=phenotypes, columns=columns,
                       events=events)  # fmt: skip

    @property
    def without_phenotypes(self) -> list[str]:
        """Subjects with runs but without a row in the phenotype tables."""
        return sorted(set(self.runs["subject"]) - set(self.phenotypes["subject"]))


class Adapter(Protocol):
    """Signature of an adapter: a function that catalogues cohorts of one layout."""

    def __call__(self, root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
        """Catalogue the cohort below ``root``.

        Parameters
        ----------
        root : Path
        tr : float, optional
            Repetition time to use for every run instead of the headers', s.
        input : {"volume", "surface"}
            Representation of the runs: volumes, or CIFTI and GIFTI files.
        """


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


def build_cohort(
    dataset: str,
    root: Path,
    found: Found,
    phenotypes: Phenotypes | None = None,
    *,
    tr: float | None = None,
    looked_for: str,
) -> Cohort:
    """Read the headers of the found runs, and check the catalogue.

    Parameters
    ----------
    dataset, root
        As in :class:`Cohort`.
    found : Found
    phenotypes : Phenotypes, optional
    tr : float, optional
        Repetition time for every run, s.
    looked_for : str
        Searched file names, for the error about an empty root.

    Raises
    ------
    CatalogError
        If there is no run, or no row of the phenotypes belongs to a subject with runs.
    """
    phenotypes = phenotypes or Phenotypes()
    by_id: dict[str, list[RunFile]] = {}
    for file in found.files:
        if not is_run_id(file.run_id):  # run ids are file names in the store
            found.left_out.append((file.path, "its name cannot be a run id: use letters, digits, "
                                   "_ and -, at most 200 in all"))  # fmt: skip
            continue
        by_id.setdefault(file.run_id, []).append(file)
    if not by_id:
        raise CatalogError(_nothing_found(dataset, root, found, looked_for))
    first = [by_id[run_id][0] for run_id in sorted(by_id)]
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = pool.map(lambda file: _look(file, tr), first)
        looks = list(tracked(headers, len(first), "headers"))
    rows, events = [], dict(found.events)
    questioned = [*found.questioned, *phenotypes.questioned]
    for file, look in zip(first, looks, strict=True):
        twins, problem = by_id[file.run_id], look.problem
        if len(twins) > 1:
            problem = expected("Run id", file.run_id, "one file",
                               " and ".join(str(t.path.relative_to(root)) for t in twins),
                               "Move all but one away.")  # fmt: skip
        problem = name_problem(file, root) or problem
        if file.mask and look.stamp.no_mask:
            questioned.append((file.mask, Remark.NO_MASK.with_reason(look.stamp.no_mask)))
            file = replace(file, mask=None)
        if not problem:
            questioned += look.questions
            if file.run_id in events:
                questioned += file.sidecar.of_events
                events[file.run_id] = _shifted(events[file.run_id], file.sidecar.start)
                if _are_beyond(events[file.run_id], look):
                    questioned.append((file.path, "events begin after the end of the run"))
        row: dict[str, object] = {name: getattr(file, name) for name in _COPIED} | {
            "dataset": dataset,
            "tr": look.tr,
            "source": file.path.relative_to(root).as_posix(),
            "n_frames": look.n_frames,
            "problem": problem,
            "source_bytes": look.stamp.sizes,
            "source_time": look.stamp.times,
        }
        for name in ("path", "right", "warp", "mask"):
            row[name] = str(row[name] or "")
        rows.append(row)
    runs = pd.DataFrame(rows)[COLUMNS]
    without = set(runs["subject"]) - set(phenotypes.table["subject"])
    near = nearly_equal(sorted(without), set(phenotypes.table["subject"]) - set(runs["subject"]))
    if near:
        questioned.append((root, f"{Remark.NEARLY_IDS}: {first_examples(pd.Series(near))}"))
    if not any(file.usual_tr for file in first) and tr is None:
        questioned += lone_times(runs)
    cohort = Cohort(
        dataset,
        runs,
        _reasons(found.left_out),
        _reasons(dict.fromkeys(questioned)),  # runs share sidecars
        phenotypes.table,
        phenotypes.columns,
        events_table(events.items()),
    )
    subjects = runs["subject"].unique()
    if len(phenotypes.table) and len(cohort.without_phenotypes) == len(subjects):
        raise CatalogError(
            expected(f"Phenotypes of {dataset} below", root, f"ids such as {subjects[0]}",
                     f"{phenotypes.table['subject'].iloc[0]}: not one subject with runs has a row",
                     "Give the table of this cohort, or take it away.")
        )  # fmt: skip
    return cohort


def _reasons(items: Iterable[tuple[Path, str]]) -> pd.DataFrame:
    rows = [(str(path), why) for path, why in items]
    return pd.DataFrame(rows, columns=["path", "reason"], dtype=str)


def _nothing_found(dataset: str, root: Path, found: Found, looked_for: str) -> str:
    got = "no such file"
    if found.left_out:
        got = f"none, but {len(found.left_out)} left out: {found.left_out[0][1]}"
    return expected(f"Cohort {dataset} below", root, looked_for, got,
                    "Check --dataset, --input and --root.")  # fmt: skip


@dataclass
class _Look:
    """Result of examining the files of one run."""

    n_frames: int = 0
    tr: float = _NAN
    problem: str = ""
    questions: list[tuple[Path, str]] = field(default_factory=list)
    stamp: Stamp = field(default_factory=Stamp)


def _look(file: RunFile, tr: float | None) -> _Look:
    """Examine all files of one run."""
    look = _Look(tr=file.sidecar.tr if tr is None else tr, problem=file.problem)
    if not file.problem:
        header = run_header(file.path, file.right, native_ok=file.warp is not None)
        seconds = repetition_time(
            header.tr, file.path, n_frames=header.n_frames, given=tr, sidecar=file.sidecar,
            usual=file.usual_tr, instead=file.documented_tr,
        )  # fmt: skip
        look.n_frames, look.tr = header.n_frames, seconds.tr
        look.problem = header.problem or seconds.problem
        look.questions = [(file.path, text) for text in header.questions] + [*seconds.questions]
        if look.problem:
            paths = (path for path in (file.path, file.right) if path)
            look.problem = next(filter(None, map(fetch_problem, paths)), look.problem)
    try:
        with looked_at(file.path, "files that can be read"):
            look.stamp = stamp_of(file)
        look.problem = look.problem or look.stamp.problem
    except RunError as error:
        look.problem = look.problem or str(error)
    return look


def _shifted(events: list[Event], seconds: float) -> list[Event]:
    return [e._replace(onset=e.onset - seconds) for e in events] if seconds else events


def _are_beyond(events: list[Event], look: _Look) -> bool:
    return any(event.onset >= look.n_frames * look.tr for event in events)
