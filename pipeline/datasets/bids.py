"""BIDS derivatives as fMRIPrep writes them: ``sub-*/[ses-*/]func/*_bold.*``.

The root is the folder of the derivatives, or of a BIDS data set with ``derivatives/fmriprep``. Of
each run the best representation is taken: volumes in MNI152NLin6Asym at 2 mm, then at any
resolution, then in MNI152NLin2009cAsym; or grayordinates (fsLR, 91k), then pairs of GIFTI files on
fsLR 32k or fsaverage5. Sidecars give the repetition time, confounds the head motion; events and
``participants.tsv`` may be those of the raw data. pybids is not used: names and inheritance take a
page here, and its index of a large tree takes many minutes.
"""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from fmritok.pipeline.catalog import (
    Cohort,
    Found,
    Input,
    RunFile,
    build_cohort,
    checked_root,
    gather,
)
from fmritok.pipeline.datasets.bids_files import (
    BidsFile,
    BidsFolders,
    safe_id,
    surface_rank,
    volume_rank,
)
from fmritok.pipeline.datasets.bids_participants import read_participants
from fmritok.pipeline.errors import CatalogError, expected
from fmritok.pipeline.events import read_bids_events
from fmritok.pipeline.timing import Sidecar, read_sidecar

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


def catalog_bids(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue preprocessed BIDS data.

    Raises
    ------
    CatalogError
        If the root is no folder or holds no run, there are several pipelines' derivatives, or
        ``participants.tsv`` is broken.
    """
    root = checked_root(root)
    tree = _derivatives(root)
    raw = _raw(root, tree)
    found = search_tree(tree, raw, dataset="bids", input=input)
    phenotypes = read_participants("bids", [raw, tree] if raw else [tree])
    if "site" in phenotypes.table:
        sites = dict(zip(phenotypes.table["subject"], phenotypes.table["site"], strict=True))
        found.files = [replace(f, site=str(sites.get(f.subject, ""))) for f in found.files]
    return build_cohort("bids", root, found, phenotypes, tr=tr, looked_for=_LOOKED_FOR[input])


def search_tree(tree: Path, raw: Path | None, *, dataset: str, input: Input) -> Found:
    """Find the runs of all subjects below a folder that holds ``sub-*``.

    Parameters
    ----------
    tree : Path
    raw : Path, optional
        The raw data set, for events and sidecars.
    dataset : str
        Beginning of run ids.
    input : {"volume", "surface"}
    """
    folders = BidsFolders(tree, raw)
    search = partial(_search, folders=folders, dataset=dataset, input=input)
    return gather(search, sorted(p.name for p in tree.glob("sub-*") if p.is_dir()))


def _derivatives(root: Path) -> Path:
    """Choose the folder with the preprocessed ``sub-*``."""
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
    """Find the raw data set around derivatives."""
    for place in (root, tree.parent.parent):
        if place != tree and (any(place.glob("sub-*/")) or (place / "participants.tsv").exists()):
            return place
    return None


def _search(subject: str, *, folders: BidsFolders, dataset: str, input: Input) -> Found:
    found = Found()
    files = sorted(folders.functional(subject), key=lambda file: (file.run, file.path))
    for _, group in groupby(files, key=lambda file: file.run):
        _search_run(list(group), folders, dataset, input, found)
    return found


def _search_run(
    files: list[BidsFile], folders: BidsFolders, dataset: str, input: Input, found: Found
) -> None:
    """Choose among the representations of one run."""
    bold = [f for f in files if f.suffix == "bold" and f.extension in _EXTENSIONS[input]]
    rank = volume_rank if input == "volume" else surface_rank
    usable = []
    for file in bold:
        if "space" not in file.entities:
            reason = RAW if "desc" not in file.entities else "in the scan's own space"
        elif "echo" in file.entities:
            reason = "a single echo: the combined time series is tokenized"
        elif rank(file) is None:
            reason = f"in none of the spaces that are used: {_SPACES[input]}"
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
    found.files += runs
    _add_events(best[0], runs[0].run_id, folders, found)


def _run(
    file: BidsFile, folders: BidsFolders, files: list[BidsFile], dataset: str, found: Found
) -> RunFile:
    problem, sidecar = "", Sidecar()
    try:
        sidecar = read_sidecar(folders.sidecar_fields(file))
    except ValueError as error:
        problem = expected("Sidecar of", file.path, "JSON", error, "Repair it, or give --tr.")
    mask = file.named("mask", ".nii.gz", desc="brain")
    space = file.entities["space"]
    return RunFile(
        run_id=safe_id(f"{dataset}_{file.run}"),
        subject=file.entities["sub"],
        session=file.entities.get("ses", ""),
        task=file.entities.get("task", ""),
        path=file.path,
        space="fsaverage5" if space == "fsaverage" else space,
        sidecar=sidecar,
        mask=mask if any(other.path == mask for other in files) else None,
        motion=_motion(file, files, found),
        problem=problem,
    )


def _pair(files: list[BidsFile], run: RunFile) -> RunFile:
    """Put the two hemispheres of a run together."""
    sides = {file.entities.get("hemi", ""): file.path for file in files}
    if {"L", "R"} <= set(sides):
        return replace(run, path=sides["L"], right=sides["R"])
    missing = "R" if "L" in sides else "L"
    problem = expected("GIFTI run", run.path, "a left and a right hemisphere",
                       f"no file of hemi-{missing}", "Add it.")  # fmt: skip
    return replace(run, problem=run.problem or problem)


def _motion(file: BidsFile, files: list[BidsFile], found: Found) -> float:
    """Return the mean framewise displacement of a run's confounds, mm."""
    table = next((f.path for f in files if f.suffix in _CONFOUNDS and f.extension == ".tsv"
                  and f.entities.get("desc") == "confounds"), None)  # fmt: skip
    if table is None:
        return math.nan
    try:
        with open(table, encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines, delimiter="\t")
            column = next(reader).index("framewise_displacement")
            values = [float(row[column]) for row in reader if row[column] != "n/a"]
    except (ValueError, IndexError, StopIteration):
        found.left_out.append((table, "no column of framewise_displacement with numbers"))
        return math.nan
    return sum(values) / len(values) if values else math.nan


def _add_events(file: BidsFile, run_id: str, folders: BidsFolders, found: Found) -> None:
    path = next(folders.inherited(file, "events", ".tsv"), None)
    if path is None:
        return
    try:
        events = read_bids_events(path)
    except (ValueError, KeyError):
        found.left_out.append((path, "not events: a column of onsets expected"))
        return
    if events:
        found.events.append((run_id, events))
