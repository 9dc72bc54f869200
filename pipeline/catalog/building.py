"""From the files that an adapter found to a catalogue: headers are read, and all is checked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from fmritok.errors import CatalogError, RunError, expected
from fmritok.pipeline.catalog.cohort import COLUMNS, Cohort, any_text, reasons_table
from fmritok.pipeline.catalog.events import Event, events_table
from fmritok.pipeline.catalog.found import Found, RunFile
from fmritok.pipeline.catalog.phenotypes import Phenotypes
from fmritok.pipeline.catalog.run_checks import (
    Stamp,
    fetch_problem,
    name_problem,
    nearly_equal,
    stamp_of,
)
from fmritok.pipeline.headers.run_header import looked_at, run_header
from fmritok.pipeline.headers.timing import lone_times, repetition_time
from fmritok.pipeline.sources.opening import as_row
from fmritok.pipeline.store.names import is_run_id
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.text_numbers import first_examples
from fmritok.progress import tracked

__all__ = ["build_cohort"]

#: Columns copied from :class:`RunFile`, beside its files.
_COPIED = ("run_id", "subject", "session", "task", "site", "family", "space", "motion")
#: Threads that read headers. On network file systems they mostly wait.
_THREADS = 16


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
    by_id = _by_id(found)
    if not by_id:
        raise CatalogError(_nothing_found(dataset, root, found, looked_for))
    first = [by_id[run_id][0] for run_id in sorted(by_id)]
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = pool.map(lambda file: _look(file, tr), first)
        looks = list(tracked(headers, len(first), "headers"))
    rows, events = [], dict(found.events)
    questioned = [*found.questioned, *phenotypes.questioned]
    for file, look in zip(first, looks, strict=True):
        problem = name_problem(file, root) or _twins_problem(by_id[file.run_id], root)
        problem = problem or look.problem
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
        rows.append(
            {name: getattr(file, name) for name in _COPIED}
            | as_row(file)
            | {
                "dataset": dataset,
                "tr": look.tr,
                "source": file.path.relative_to(root).as_posix(),
                "n_frames": look.n_frames,
                "problem": problem,
                "source_bytes": look.stamp.sizes,
                "source_time": look.stamp.times,
            }
        )
    with any_text():
        runs = pd.DataFrame(rows)[COLUMNS]
    ids, of_tables = set(runs["subject"]), set(phenotypes.table["subject"])
    near = nearly_equal(sorted(ids - of_tables), of_tables - ids)
    if near:
        questioned.append((root, f"{Remark.NEARLY_IDS}: {first_examples(pd.Series(near))}"))
    if not any(file.usual_tr for file in first) and tr is None:
        questioned += lone_times(runs)
    cohort = Cohort(
        dataset,
        runs,
        reasons_table(found.left_out),
        reasons_table(dict.fromkeys(questioned)),  # runs share sidecars
        phenotypes.table,
        phenotypes.columns,
        events_table(events.items()),
    )
    _refuse_foreign_phenotypes(cohort, root)
    return cohort


def _by_id(found: Found) -> dict[str, list[RunFile]]:
    """Gather the files by run id; leave out those whose name cannot be one."""
    by_id: dict[str, list[RunFile]] = {}
    for file in found.files:
        if is_run_id(file.run_id):
            by_id.setdefault(file.run_id, []).append(file)
        else:  # run ids are file names in the store
            found.left_out.append((file.path, "its name cannot be a run id: use letters, digits, "
                                   "_ and -, at most 200 in all"))  # fmt: skip
    return by_id


def _twins_problem(twins: list[RunFile], root: Path) -> str:
    """Return the error of several files with one run id; empty for one file."""
    if len(twins) == 1:
        return ""
    return expected("Run id", twins[0].run_id, "one file",
                    " and ".join(str(twin.path.relative_to(root)) for twin in twins),
                    "Move all but one away.")  # fmt: skip


def _refuse_foreign_phenotypes(cohort: Cohort, root: Path) -> None:
    """Refuse phenotypes that have a row of no subject with runs."""
    subjects = cohort.runs["subject"].unique()
    if len(cohort.phenotypes) and len(cohort.without_phenotypes) == len(subjects):
        raise CatalogError(
            expected(f"Phenotypes of {cohort.dataset} below", root, f"ids such as {subjects[0]}",
                     f"{cohort.phenotypes['subject'].iloc[0]}: not one subject with runs has a row",
                     "Give the table of this cohort, or take it away.")
        )  # fmt: skip


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
    tr: float = float("nan")
    problem: str = ""
    questions: list[tuple[Path, str]] = field(default_factory=list)
    stamp: Stamp = field(default_factory=Stamp)


def _look(file: RunFile, tr: float | None) -> _Look:
    """Examine all files of one run."""
    look = _Look(tr=file.sidecar.tr if tr is None else tr, problem=file.problem)
    if not file.problem:
        header = run_header(
            file.path, file.right, native_ok=file.warp is not None, layout=file.layout
        )
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
