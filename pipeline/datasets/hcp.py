"""HCP Young Adult (S1200), and the demo cohort, which has the same shape.

``ROOT/SUBJECT/MNINonLinear/Results/RUN/RUN[SUFFIX].nii.gz``: rest and task runs on the MNI 2 mm
grid. Behaviour in ``unrestricted*.csv`` and ``RESTRICTED*.csv``, joined on ``Subject``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fmritok.pipeline.catalog import (
    Cohort,
    RunFile,
    build_cohort,
    checked_root,
    read_phenotype_table,
)
from fmritok.pipeline.errors import CatalogError, expected

__all__ = ["catalog_demo", "catalog_hcp"]

#: Volumes of one run, best first: the newer ICA-FIX releases, ICA-FIX, minimally preprocessed.
_SUFFIXES = (
    "_hp2000_clean_rclean_tclean",
    "_hp0_clean_rclean_tclean",
    "_hp2000_clean",
    "_hp0_clean",
    "",
)
_RUN = re.compile(r"^[rt]fMRI_(?P<task>[A-Z]+)\d*(_(?P<scanner>7T))?(_[A-Z]{2})?$")
_LOOKED_FOR = "SUBJECT/MNINonLinear/Results/rfMRI_*/rfMRI_*.nii.gz (or tfMRI_*)"


def catalog_hcp(root: Path, *, tr: float | None = None) -> Cohort:
    """Catalogue an HCP Young Adult tree.

    Of each run the FIX-cleaned volume is taken where there is one; the other is listed as left out.

    Raises
    ------
    CatalogError
        If the root is no folder or holds no run, or a phenotype table is broken.
    """
    return _catalog("hcp", checked_root(root), tr)


def catalog_demo(root: Path, *, tr: float | None = None) -> Cohort:
    """Catalogue a simulated cohort made by ``fmritok demo-data``.

    Raises
    ------
    CatalogError
        If the folder is not a simulated cohort: real data are not to be taken for one.
    """
    root = checked_root(root)
    if not (root / "SIMULATED.json").exists():
        raise CatalogError(
            expected("Demo cohort", root, "SIMULATED.json, as `fmritok demo-data` writes it",
                     "no such file",
                     "Make a cohort with `fmritok demo-data`, or use --dataset hcp.")
        )  # fmt: skip
    return _catalog("demo", root, tr)


def _catalog(dataset: str, root: Path, tr: float | None) -> Cohort:
    phenotypes = _phenotypes(root)
    families: dict[str, str] = {}
    if "Family_ID" in phenotypes:
        known = phenotypes.dropna(subset=["Family_ID"])
        families = dict(zip(known["subject"], known["Family_ID"].astype(str), strict=True))
    files, left_out = [], []
    for subject, folder in _run_folders(root):
        name = _RUN.match(folder.name)
        if name is None:
            left_out.append((folder, "not the folder of one rest or task run"))
            continue
        candidates = _volumes(folder)
        if not candidates:
            left_out.append((folder, "no volume time series in the folder"))
            continue
        best = candidates[0][0]
        for rank, path in candidates:
            if rank > best:
                left_out.append((path, f"{candidates[0][1].name} is there, and cleaner"))
                continue
            files.append(
                RunFile(
                    run_id=f"{dataset}_{subject}_{folder.name}",
                    subject=subject,
                    path=path,
                    session=name["scanner"] or "3T",
                    task="rest" if name["task"] == "REST" else name["task"].lower(),
                    family=families.get(subject, ""),
                )
            )
    return build_cohort(dataset, root, files, left_out, phenotypes, tr=tr, looked_for=_LOOKED_FOR)


def _run_folders(root: Path) -> Iterator[tuple[str, Path]]:
    for subject in sorted(os.listdir(root)):
        results = root / subject / "MNINonLinear" / "Results"
        if results.is_dir():
            for name in sorted(os.listdir(results)):
                if name.startswith(("rfMRI_", "tfMRI_")) and (results / name).is_dir():
                    yield subject, results / name


def _volumes(folder: Path) -> list[tuple[int, Path]]:
    """Return the time series of one run's folder with their rank, best first."""
    names = set(os.listdir(folder))
    return [
        (rank, folder / name)
        for rank, suffix in enumerate(_SUFFIXES)
        for name in (f"{folder.name}{suffix}.nii.gz", f"{folder.name}{suffix}.nii")
        if name in names
    ]


def _phenotypes(root: Path) -> pd.DataFrame:
    """Join the unrestricted and the restricted table on the subject; either may be missing."""
    joined = pd.DataFrame({"subject": pd.Series(dtype=str)})
    for start in ("unrestricted", "restricted"):
        found = sorted(p for p in root.glob("*.csv") if p.name.lower().startswith(start))
        if len(found) > 1:
            raise CatalogError(
                expected(f"Tables {start}*.csv in", root, "one file",
                         ", ".join(p.name for p in found), "Keep the newest.")
            )  # fmt: skip
        for path in found:
            table = read_phenotype_table(path, "Subject")
            new = [c for c in table.columns if c == "subject" or c not in joined.columns]
            joined = joined.merge(table[new], on="subject", how="outer")
    return joined
