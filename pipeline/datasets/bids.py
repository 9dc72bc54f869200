"""Adapter of BIDS derivatives of fMRIPrep: ``sub-*/[ses-*/]func/*_bold.*``.

The root is the folder of the derivatives, or a BIDS data set with ``derivatives/fmriprep``. The
best representation of each run is used. Volumes: MNI152NLin6Asym at 2 mm, then at any resolution,
then MNI152NLin2009cAsym. Surfaces: grayordinates (fsLR, 91k), then pairs of GIFTI files on fsLR 32k
or fsaverage5.

Sidecars give the repetition time, confounds the head motion. Events and ``participants.tsv`` may
come from the raw data. pybids is not used: it takes many minutes to index a large tree.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.catalog.building import build_cohort
from fmritok.pipeline.catalog.cohort import Cohort, Input
from fmritok.pipeline.catalog.events import read_bids_events
from fmritok.pipeline.catalog.found import Found, RunFile, checked_root, gather
from fmritok.pipeline.datasets.bids_files import (
    BidsFile,
    BidsFolders,
    safe_id,
    surface_rank,
    volume_rank,
)
from fmritok.pipeline.datasets.bids_participants import read_participants
from fmritok.pipeline.headers.sidecar import read_sidecar
from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import UnreadableError, not_fetched
from fmritok.pipeline.tables.text_numbers import numbers_of
from fmritok.pipeline.tables.text_table import BIDS, TextTable

__all__ = ["catalog_bids", "search_tree"]

RAW = ("raw scan in native space: preprocess it with fMRIPrep "
       "(--output-spaces MNI152NLin6Asym:res-2), and catalogue the result")  # fmt: skip
_LOOKED_FOR = {
    "volume": "sub-*/[ses-*/]func/*_space-MNI152*_desc-preproc_bold.nii.gz",
    "surface": "sub-*/[ses-*/]func/*_space-fsLR_den-91k_bold.dtseries.nii "
    "or *_hemi-[LR]_space-fsaverage5_bold.func.gii",
}
_EXTENSIONS = {
    "volume": (".nii", ".nii.gz"),
    "surface": (".dtseries.nii", ".func.gii", ".func.gii.gz"),
}
_SPACES = {
    "volume": "MNI152NLin6Asym, MNI152NLin2009cAsym",
    "surface": "fsLR 32k (91k grayordinates), fsaverage5",
}
_CONFOUNDS = ("timeseries", "regressors")  # since and before fMRIPrep 20
_DISPLACEMENT = "framewise_displacement"
_REST = ("rest", "restingstate", "resting")


def catalog_bids(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue preprocessed BIDS data.

    Raises
    ------
    CatalogError
        If the root is not a folder or has no run, there are derivatives of several pipelines, or
        ``participants.tsv`` has no ids.
    """
    root = checked_root(root)
    tree = _derivatives(root)
    raw = _raw(root, tree)
    links = sorted(p for p in root.glob("derivatives/*") if p.is_symlink())
    found = Found(left_out=[(p, Reason.LINK) for p in links if not_fetched(p)])
    found.add(search_tree(tree, raw, dataset="bids", input=input))
    places = [raw, tree] if raw else [tree]
    phenotypes = read_participants("bids", places, found.subject_tables)
    sites, families = (_of_sessions(phenotypes.table, name) for name in ("site", "family"))
    found.files = [
        replace(f, site=sites(f.subject, f.session), family=families(f.subject, f.session))
        for f in found.files
    ]
    return build_cohort("bids", root, found, phenotypes, tr=tr, looked_for=_LOOKED_FOR[input])


def _of_sessions(table: pd.DataFrame, column: str) -> Callable[[str, str], str]:
    """Return the text of a column by subject and session; that of all sessions, or empty."""
    rows = table[table[column] != ""] if column in table else table[:0]
    keys = zip(rows["subject"], rows["session"], strict=True)
    known = dict(zip(keys, rows[column].astype(str), strict=True)) if len(rows) else {}
    return lambda subject, session: known.get((subject, session)) or known.get((subject, ""), "")


def search_tree(tree: Path, raw: Path | None, *, dataset: str, input: Input) -> Found:
    """Find the runs of all subjects in a folder with ``sub-*``.

    Parameters
    ----------
    tree : Path
    raw : Path, optional
        The raw data set, for events and sidecars.
    dataset : str
        Prefix of run ids.
    input : {"volume", "surface"}
    """
    folders = BidsFolders(tree, raw)
    search = partial(_search, folders=folders, dataset=dataset, input=input)
    subjects = sorted(p for p in tree.glob("sub-*") if p.is_dir() or p.is_symlink())
    return gather(search, subjects, where=lambda place: place)


def _derivatives(root: Path) -> Path:
    """Return the folder with the preprocessed ``sub-*``."""
    pipelines = [p for p in sorted(root.glob("derivatives/*")) if any(p.glob("sub-*/"))]
    if not pipelines:
        return root
    named = [p for p in pipelines if p.name.lower().startswith("fmriprep")]
    if len(named or pipelines) > 1:
        raise CatalogError(
            expected("Derivatives in", root / "derivatives", "one pipeline's",
                     ", ".join(p.name for p in named or pipelines),
                     "Give the folder of the one you want as --root.")
        )  # fmt: skip
    return (named or pipelines)[0]


def _raw(root: Path, tree: Path) -> Path | None:
    """Return the raw data set of derivatives."""
    for place in (root, tree.parent.parent):
        table = place / "participants.tsv"
        if place != tree and (any(place.glob("sub-*/")) or os.path.lexists(table)):
            return place
    return None


def _search(place: Path, *, folders: BidsFolders, dataset: str, input: Input) -> Found:
    found = Found()
    if not place.is_dir():
        if not_fetched(place):
            found.left_out.append((place, Reason.LINK))
        return found
    files = sorted(folders.functional(place.name), key=lambda file: (file.run_key, file.path))
    for _, group in groupby(files, key=lambda file: file.run_key):
        _search_run(list(group), folders, dataset, input, found)
    unnamed = folders.unnamed(place.name, _EXTENSIONS[input])
    found.left_out += [(path, "its name does not follow BIDS") for path in unnamed]
    if found.files:
        found.subject_tables += folders.tables_of(place.name)
    return found


def _search_run(
    files: list[BidsFile], folders: BidsFolders, dataset: str, input: Input, found: Found
) -> None:
    """Choose the best representation of one run."""
    bold = [f for f in files if f.suffix == "bold" and f.extension.lower() in _EXTENSIONS[input]]
    rank = volume_rank if input == "volume" else surface_rank
    usable = []
    for file in bold:
        if file.extension not in _EXTENSIONS[input]:
            reason = "its extension is in capitals: rename it"
        elif "space" not in file.entities:
            reason = RAW if "desc" not in file.entities else "in the scan's own space"
        elif "echo" in file.entities:
            reason = "a single echo: the combined time series is tokenized"
        elif rank(file) is None:
            reason = f"in an unsupported space. Supported: {_SPACES[input]}"
        else:
            usable.append(file)
            continue
        found.left_out.append((file.path, reason))
    if not usable:
        return
    usable.sort(key=lambda file: rank(file) or ())
    best = [file for file in usable if rank(file) == rank(usable[0])]
    better = "another space, resolution or processing of the run is preferred"
    found.left_out += [(file.path, better) for file in usable if file not in best]
    if best[0].extension.startswith(".func.gii"):
        runs = [_pair(best, _run(best[0], folders, files, dataset, found))]
    else:
        runs = [_run(file, folders, files, dataset, found) for file in best]
    # ambiguous files of one run, such as run-1 and run-01
    found.files += [replace(run, run_id=runs[0].run_id) for run in runs]
    _add_events(best[0], runs[0].run_id, folders, found)


def _run(
    file: BidsFile, folders: BidsFolders, files: list[BidsFile], dataset: str, found: Found
) -> RunFile:
    sidecar = read_sidecar(folders.sidecar(file, found.questioned))
    space = file.entities["space"]
    return RunFile(
        run_id=safe_id(f"{dataset}_{file.run}"),
        subject=file.entities["sub"],
        session=file.entities.get("ses", ""),
        task=file.entities.get("task", ""),
        path=file.path,
        space="fsaverage5" if space == "fsaverage" else space,
        sidecar=sidecar,
        mask=_mask(file, files),
        motion=_motion(files, found),
    )


def _mask(file: BidsFile, files: list[BidsFile]) -> Path | None:
    """Return the brain mask of the same space and resolution."""
    wanted = {**file.compared, "desc": "brain"}
    return next((f.path for f in files if f.suffix == "mask" and f.extension == ".nii.gz"
                 and f.compared == wanted), None)  # fmt: skip


def _pair(files: list[BidsFile], run: RunFile) -> RunFile:
    """Pair the two hemispheres of a run."""
    sides = {file.entities.get("hemi", ""): file.path for file in files}
    if {"L", "R"} <= set(sides):
        return replace(run, path=sides["L"], right=sides["R"])
    missing = "R" if "L" in sides else "L"
    problem = expected("GIFTI run", run.path, "a left and a right hemisphere",
                       f"no file of hemi-{missing}", "Add it.")  # fmt: skip
    return replace(run, problem=run.problem or problem)


def _motion(files: list[BidsFile], found: Found) -> float:
    """Return the mean framewise displacement from the confounds of a run, mm."""
    path = next((f.path for f in files if f.suffix in _CONFOUNDS and f.extension == ".tsv"
                 and f.entities.get("desc") == "confounds"), None)  # fmt: skip
    if path is None:
        return math.nan
    try:
        table = TextTable(path, BIDS)
        if _DISPLACEMENT not in table.header:
            raise UnreadableError(Reason.NO_COLUMN)
        place = table.header.index(_DISPLACEMENT)
        texts = [row[0] for row in table.rows([place])]
    except UnreadableError as error:
        found.questioned.append((path, Remark.NO_MOTION.with_reason(error)))
        return math.nan
    values, odd = numbers_of(["" if text in BIDS.missing else text for text in texts])
    remarks = [*table.remarks, *[Remark.BAD_MOTION] * bool(odd.any())]
    found.questioned += [(path, str(remark)) for remark in remarks]
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _add_events(file: BidsFile, run_id: str, folders: BidsFolders, found: Found) -> None:
    """Add the events of a run. Event files with a slightly different name are reported."""
    first = next(folders.inherited(file, "events", ".tsv"), None)
    if first is None:
        if file.entities.get("task", "").lower() not in _REST:
            near = folders.nearly(file, "events", ".tsv")
            found.questioned += [(other.path, Remark.NEARLY_EVENTS.value) for other in near]
        return
    doubts: list[str] = []
    try:
        events = read_bids_events(first.path, doubts)
    except UnreadableError as error:
        found.questioned.append((first.path, Remark.NO_EVENTS.with_reason(error)))
        return
    found.questioned += [(first.path, doubt) for doubt in doubts]
    if events:
        found.events.append((run_id, events))
