"""The catalogue: what a cohort on disk holds, and what of it is left out and why.

Each adapter in :mod:`fmritok.pipeline.datasets` turns a root folder into a :class:`Cohort`; headers
are read, data are not.
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

#: Which representation of the runs is catalogued.
Input = Literal["volume", "surface"]
Place = TypeVar("Place")
_NAN = float("nan")

COLUMNS = [
    "run_id", "dataset", "subject", "session", "task", "site", "family", "tr", "space", "source",
    "source_bytes", "source_time", "path", "right", "warp", "mask", "motion", "n_frames", "problem",
]  # fmt: skip
#: Columns that are a run's as its adapter found it.
_COPIED = ("run_id", "subject", "session", "task", "site", "family", "space", "motion", "path",
           "right", "warp", "mask")  # fmt: skip
#: Folders and headers read at once: on network file systems, nearly all of it is waiting.
_THREADS = 16


@dataclass(frozen=True)
class RunFile:
    """One run as an adapter found it, before its header was read.

    Attributes
    ----------
    run_id : str
        Unique in the cohort, made of letters, digits, ``_`` and ``-``; the same whichever
        representation of the run is catalogued.
    subject, session, task, site, family : str
        Ids as text, as the cohort writes them; empty where there is none.
    path : Path
        The volumes, the grayordinates, or the left hemisphere. It may lead through a zip file as if
        that were a folder.
    space : str
        Template space of the samples, once `warp` is applied.
    sidecar : Sidecar
        What sidecars say of the times of frames.
    usual_tr : tuple of float
        Repetition times that such scans of the cohort have, s; empty if not known.
    documented_tr : float
        Repetition time to use where the header has none that can be, s; NaN if not known.
    right : Path, optional
        The right hemisphere of a pair of GIFTI files.
    warp : Path, optional
        FSL warp field from the run's native space, in which `path` is, to MNI.
    mask : Path, optional
        Brain mask on the run's grid.
    motion : float
        Mean framewise displacement or relative RMS, mm, where the cohort knows it; else NaN.
    problem : str
        Why the run cannot be tokenized, where its file names tell it already.
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
    """What an adapter found in a cohort, or in one part of it.

    Attributes
    ----------
    files : list of RunFile
    left_out : list of (Path, str)
        Files that were passed over, and why; equal reasons in equal words.
    questioned : list of (Path, str)
        Files that are used, and what in them is doubtful; equal reasons in equal words.
    events : list of (str, list of Event)
        Run ids and what happened during these runs.
    subject_tables : list of Path
        Phenotype tables of single subjects.
    """

    files: list[RunFile] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    questioned: list[tuple[Path, str]] = field(default_factory=list)
    events: list[tuple[str, list[Event]]] = field(default_factory=list)
    subject_tables: list[Path] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take over what was found in another part."""
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
        The adapter's name.
    runs : pd.DataFrame
        One row per run: ``run_id, dataset, subject, session, task, site, family, tr, space,
        source`` (path below the root), ``path, right, warp, mask`` (text, empty if none),
        ``source_bytes, source_time`` (text: bytes and times of change, ns since 1970, of the run's
        file, right hemisphere, warp and mask, one after another), ``motion`` (mm),
        ``n_frames, problem`` (why it cannot be tokenized, or empty).
    left_out : pd.DataFrame
        ``path, reason``: files that were passed over on purpose.
    questioned : pd.DataFrame
        ``path, reason``: files that are used, and what in them is doubtful.
    phenotypes : pd.DataFrame
        ``dataset, subject, session`` and typed columns; the session is empty where a row holds for
        all of them.
    columns : pd.DataFrame
        ``dataset, column, dtype, unit, source, meaning``: what the phenotype columns are.
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
        """Return the cohort under another name, so that two of one layout can share a store.

        Run ids begin with the name.
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
        """Subjects that have runs, and no row in the phenotype tables."""
        return sorted(set(self.runs["subject"]) - set(self.phenotypes["subject"]))


class Adapter(Protocol):
    """What a cohort needs to be catalogued: one function, one object per cohort layout."""

    def __call__(self, root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
        """Catalogue the cohort below ``root``.

        Parameters
        ----------
        root : Path
        tr : float, optional
            Repetition time to use for every run instead of the headers', s.
        input : {"volume", "surface"}
            Which representation of the runs to catalogue: volumes, or CIFTI and GIFTI files.
        """


def checked_root(root: Path) -> Path:
    """Return the root of a cohort if it is a folder.

    Raises
    ------
    CatalogError
        If it is not.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise wrong_usage(CatalogError(
            expected("Data root", root, "a folder", "a file" if root.exists() else "nothing there",
                     "Check --root (or DATA_ROOT).")
        ))  # fmt: skip
    return root


def gather(
    search: Callable[[Place], Found],
    places: Iterable[Place],
    *,
    where: Callable[[Place], Path] | None = None,
) -> Found:
    """Search the parts of a cohort, several at a time, and put what they hold together.

    If a part cannot be searched because of a file in it, it is left out, and the others are
    searched.

    Parameters
    ----------
    search : callable
    places : iterable
    where : callable, optional
        Returns the path of a part, for errors that name no file.
    """

    def safe(place: Place) -> Found:
        try:
            return search(place)
        except FAULTS_OF_FILES as error:
            if isinstance(error, OSError) and isinstance(error.filename, str):
                return Found(left_out=[(Path(error.filename), f"cannot be read: {error.strerror}")])
            if where is None:
                raise
            reason = f"cannot be searched: {type(error).__name__}: {error}"
            return Found(left_out=[(where(place), reason)])

    found, parts = Found(), list(places)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in tracked(pool.map(safe, parts), len(parts), "folders"):
            found.add(part)
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
    """Read the headers of the runs that an adapter found, and check the catalogue.

    Parameters
    ----------
    dataset, root
        As in :class:`Cohort`.
    found : Found
    phenotypes : Phenotypes, optional
    tr : float, optional
        Repetition time for every run, s.
    looked_for : str
        The file names that were searched, for the error about an empty root.

    Raises
    ------
    CatalogError
        If there is no run at all, or there are phenotypes and none is of a subject with runs.
    """
    phenotypes = phenotypes or Phenotypes()
    by_id: dict[str, list[RunFile]] = {}
    for file in found.files:
        if not is_run_id(file.run_id):  # ids become names of files in the store
            found.left_out.append((file.path, "its name makes no run id: use letters, digits, "
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
    """What looking at the files of one run has brought."""

    n_frames: int = 0
    tr: float = _NAN
    problem: str = ""
    questions: list[tuple[Path, str]] = field(default_factory=list)
    stamp: Stamp = field(default_factory=Stamp)


def _look(file: RunFile, tr: float | None) -> _Look:
    """Look at all files of one run."""
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
