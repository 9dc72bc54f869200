"""Adapter of ADHD-200: the preprocessed releases of the 1,000 Functional Connectomes Project.

Runs are recognized by their file names, in any folder below the root. Best release first:

- Athena, MNI 4 mm: ``snwmrda<7-digit id>_session_<s>_rest_<r>.nii.gz``, and band-pass filtered
  ``sfnwmrda...``. The unfiltered file is preferred: tokenizers filter as they need.
- NIAK: ``fmri_X_<id>_session_<s>_run<r>.nii.gz``, ids without zeros, symmetric MNI template of
  2009 (from memory).
- The sample of nilearn: ``<7-digit id>_rest_tshift_RPI_voreg_mni.nii.gz``.
- Derivatives of fMRIPrep, as for ``bids``. Raw BIDS data are in native space and skipped.

The site is the name of a folder above the run, else that of the phenotype table. Ids have seven
digits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fmritok.pipeline.catalog.cohort import (
    Cohort,
    Found,
    Input,
    RunFile,
    build_cohort,
    checked_root,
)
from fmritok.pipeline.datasets.adhd200_phenotypes import padded, read_adhd200_phenotypes
from fmritok.pipeline.datasets.bids import search_tree

__all__ = ["catalog_adhd200"]

_FILTERED = "the unfiltered file of the scan is taken"
_OTHER = "another pipeline's file of the scan is taken"
#: Releases, best first: file name, template, and the reason to skip it if a better one exists.
_RELEASES = (
    (re.compile(r"^snwmrda(?P<id>\d{7})_session_(?P<session>\d+)_rest_(?P<run>\d+)\.nii(\.gz)?$"),
     "MNI152NLin6Asym", _OTHER),
    (re.compile(r"^sfnwmrda(?P<id>\d{7})_session_(?P<session>\d+)_rest_(?P<run>\d+)\.nii(\.gz)?$"),
     "MNI152NLin6Asym", _FILTERED),
    (re.compile(r"^fmri_X_(?P<id>\d{1,7})_session_(?P<session>\d+)_run(?P<run>\d+)\.nii(\.gz)?$"),
     "MNI152NLin2009aSym", _OTHER),
    (re.compile(r"^(?P<id>\d{7})_rest_tshift_RPI_voreg_mni\.nii(\.gz)?$"),
     "MNI152NLin6Asym", _OTHER),
)  # fmt: skip
_SITES = ("KKI", "NeuroIMAGE", "NYU", "OHSU", "Peking_1", "Peking_2", "Peking_3", "Pittsburgh",
          "WashU", "Brown")  # fmt: skip
#: Documented repetition times of the sites (Athena's scripts), s; for headers without one. Brown,
#: in the test release, is missing: sources differ.
_SITE_TR = {"KKI": 2.5, "NeuroIMAGE": 1.96, "NYU": 2.0, "OHSU": 2.5, "Peking": 2.0,
            "Pittsburgh": 1.5, "WashU": 2.5}  # fmt: skip
_LOOKED_FOR = {
    "volume": "snwmrda*, sfnwmrda*, fmri_X_*_run*, *_rest_tshift_RPI_voreg_mni or fMRIPrep's "
    "*_space-MNI152*_bold, .nii or .nii.gz",
    "surface": "fMRIPrep's *_space-fsLR_den-91k_bold.dtseries.nii or "
    "*_hemi-[LR]_space-fsaverage5_bold.func.gii (the preprocessed releases have volumes only)",
}


def catalog_adhd200(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue ADHD-200.

    Raises
    ------
    CatalogError
        If the root is no folder or holds no run, or a phenotype table is broken.
    """
    root = checked_root(root)
    found, tables, trees = Found(), [], []
    scans: dict[tuple[str, str, str], list[tuple[int, Path]]] = {}
    for folder, names, is_tree in _walk(root, found):
        if is_tree:
            trees.append(folder)
        for name in names:
            if _is_table(name):
                tables.append(folder / name)
            elif input == "volume":
                for rank, (pattern, _, _) in enumerate(_RELEASES):
                    match = pattern.match(name)
                    if match:
                        known = {"session": "1", "run": "1"} | match.groupdict()
                        key = (padded(known["id"]), known["session"], known["run"])
                        scans.setdefault(key, []).append((rank, folder / name))
    for key, files in sorted(scans.items()):
        _choose(key, sorted(files), root, found)
    for tree in trees:
        _add_tree(tree, root, input, found)
    phenotypes, left_out = read_adhd200_phenotypes(root, tables)
    found.left_out += left_out
    table = phenotypes.table.set_index("subject")
    rows = table[[c for c in ("site", "mean_fd") if c in table]].to_dict("index")
    found.files = [_completed(file, rows.get(file.subject, {})) for file in found.files]
    return build_cohort("adhd200", root, found, phenotypes, tr=tr, looked_for=_LOOKED_FOR[input])


def _walk(root: Path, found: Found) -> Iterator[tuple[Path, list[str], bool]]:
    """Yield folders, their files, and whether the folder is a BIDS tree of subjects."""

    def closed(error: OSError) -> None:
        found.left_out.append((Path(error.filename), f"cannot be read: {error.strerror}"))

    for folder, folders, names in os.walk(root, onerror=closed):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        is_tree = any(f.startswith("sub-") for f in folders)
        if is_tree:
            folders[:] = [f for f in folders if not f.startswith("sub-")]
        yield Path(folder), sorted(n for n in names if not n.startswith(".")), is_tree


def _is_table(name: str) -> bool:
    name = name.lower()
    return name == "participants.tsv" or ("phenotypic" in name and name.endswith((".csv", ".tsv")))


def _choose(
    key: tuple[str, str, str], files: list[tuple[int, Path]], root: Path, found: Found
) -> None:
    """Choose the best release of a scan. Ambiguous files are all returned."""
    subject, session, run = key
    best = files[0][0]
    for rank, path in files:
        if rank != best:
            found.left_out.append((path, _RELEASES[rank][2] if best == 0 else _OTHER))
            continue
        found.files.append(
            RunFile(
                run_id=f"adhd200_{subject}_session_{session}_rest_{run}",
                subject=subject,
                session=session,
                task="rest",
                path=path,
                site=_site(path, root),
                space=_RELEASES[rank][1],
            )
        )


def _add_tree(tree: Path, root: Path, input: Input, found: Found) -> None:
    """Add a BIDS tree. Derivatives are used unless an earlier file is; raw scans are skipped."""
    part = search_tree(tree, None, dataset="adhd200", input=input)
    taken = {(file.subject, file.session or "1", _number(file.run_id)) for file in found.files}
    for file in part.files:
        subject = padded(file.subject)
        session, run = file.session or "1", _number(file.run_id)
        if (subject, session, run) in taken:
            found.left_out.append((file.path, _OTHER))
            continue
        run_id = f"adhd200_{subject}_session_{session}_rest_{run}"
        found.files.append(replace(file, subject=subject, session=session, run_id=run_id,
                                   site=_site(file.path, root)))  # fmt: skip
    found.left_out += part.left_out
    found.questioned += part.questioned


def _number(run_id: str) -> str:
    """Return the number of a run from its id; 1 if the id has none."""
    match = re.search(r"_(?:run-|rest_)0*(\d+)", run_id)
    return match[1] if match else "1"


def _site(path: Path, root: Path) -> str:
    """Return the site from the folder names above a file."""
    for part in reversed(path.relative_to(root).parts[:-1]):
        for site in _SITES:
            if part.lower() in (site.lower(), f"{site}_preproc".lower(), f"{site}_athena".lower()):
                return site
    return ""


def _completed(file: RunFile, row: Mapping[Hashable, object]) -> RunFile:
    """Add values of the phenotype table, and the documented repetition time of the site."""
    site = file.site or str(row.get("site", ""))
    seconds = _SITE_TR.get(site.split("_")[0], float("nan"))
    usual = () if seconds != seconds else (seconds,)
    motion = file.motion
    if file.path.name.startswith(file.subject):  # nilearn's table describes these files
        motion = float(str(row.get("mean_fd", motion)))
    return replace(file, site=site, usual_tr=usual, documented_tr=seconds, motion=motion)
