"""Adapters of HCP Young Adult (S1200, 3T and 7T), and of the demo cohort with the same layout.

``ROOT/SUBJECT/MNINonLinear/Results/RUN/`` contains volumes ``RUN[SUFFIX].nii.gz`` in MNI space,
grayordinates ``RUN_Atlas[_MSMAll][SUFFIX].dtseries.nii``, ``Movement_RelativeRMS_mean.txt`` and,
for tasks, ``EVs/*.txt``. Phenotypes are in ``unrestricted*.csv`` and ``RESTRICTED*.csv``, joined on
``Subject``. Only the restricted table has families and the age in years.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.catalog.building import build_cohort
from fmritok.pipeline.catalog.cohort import Cohort, Input
from fmritok.pipeline.catalog.events import Event, read_fsl_events
from fmritok.pipeline.catalog.found import Found, RunFile, checked_root, gather
from fmritok.pipeline.datasets.hcp_phenotypes import hcp_phenotypes
from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import UnreadableError, not_fetched, read_text
from fmritok.pipeline.tables.text_numbers import one_number

__all__ = ["catalog_demo", "catalog_hcp"]

#: Suffixes of denoising methods, best first: newer releases, ICA-FIX, minimally preprocessed.
_CLEANED = (
    *(
        f"{highpass}{clean}"
        for clean, highpass in product(
            ("_clean_rclean_tclean", "_clean_tclean", "_clean_rclean", "_clean"),
            ("_hp2000", "_hp0"),
        )
    ),
    "",
)
#: Suffixes of files, best first. Denoising ranks before registration, because it matters more.
_VOLUMES = [f"{c}{end}" for c in _CLEANED for end in (".nii.gz", ".nii")]
_GRAYORDINATES = [f"_Atlas{r}{c}.dtseries.nii" for c, r in product(_CLEANED, ("_MSMAll", ""))]
_RUN = re.compile(
    r"^[rt]fMRI_(?P<task>[A-Z]+)(?P<number>\d*[a-z]?)(_(?P<scanner>7T))?(_(?P<direction>[A-Z]{2}))?$"
)
#: Repetition times by scanner and phase encoding, s. AP and PA on 3T are lifespan studies; some of
#: them use the repetition time of the young adults.
_SECONDS = {"7T": (1.0,), "3T": (0.72,)}
_LIFESPAN = (0.8, 0.72)
_MERGED = ("tfMRI_7T_RETCCW_AP_RETCW_PA_RETEXP_AP_RETCON_PA_RETBAR1_AP_RETBAR2_PA",)
_MOTION = "Movement_RelativeRMS_mean.txt"
_NOT_EVENTS = ("Sync",)  # start of the scanner; onsets already count from it


def catalog_hcp(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue an HCP Young Adult tree.

    The best denoised file of each run is used; the others are listed as left out. 7T runs have the
    session ``7T``.

    Raises
    ------
    CatalogError
        If the root is not a folder or has no run, or a phenotype table is broken.
    """
    return _catalog("hcp", checked_root(root), tr, input)


def catalog_demo(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue a simulated cohort made by ``fmritok demo-data``.

    Raises
    ------
    CatalogError
        If the folder is not a simulated cohort.
    """
    root = checked_root(root)
    if not (root / "SIMULATED.json").exists():
        raise CatalogError(
            expected("Demo cohort", root, "SIMULATED.json, as `fmritok demo-data` writes it",
                     "no such file",
                     "Make a cohort with `fmritok demo-data`, or use --dataset hcp.")
        )  # fmt: skip
    return _catalog("demo", root, tr, input)


def _catalog(dataset: str, root: Path, tr: float | None, input: Input) -> Cohort:
    phenotypes = hcp_phenotypes(dataset, root)
    families: dict[str, str] = {}
    if "Family_ID" in phenotypes.table:
        table = phenotypes.table
        families = dict(zip(table["subject"], table["Family_ID"], strict=True))
    search = partial(_search, dataset=dataset, families=families, input=input)
    found = Found()
    found.add(gather(search, _run_folders(root, found), where=lambda place: place[1]))
    kind = "nii.gz" if input == "volume" else "dtseries.nii"
    looked_for = f"SUBJECT/MNINonLinear/Results/rfMRI_*/rfMRI_*.{kind} (or tfMRI_*)"
    return build_cohort(dataset, root, found, phenotypes, tr=tr, looked_for=looked_for)


def _run_folders(root: Path, found: Found) -> Iterator[tuple[str, Path]]:
    """Yield the folders of all runs. Unreadable folders are added to the skipped files."""
    for subject in sorted(os.listdir(root)):
        results = root / subject / "MNINonLinear" / "Results"
        try:
            names = sorted(os.listdir(results))
        except (FileNotFoundError, NotADirectoryError):
            gone = not_fetched(root / subject)
            found.left_out += [(root / subject, str(gone))] if gone and "." not in subject else []
            continue
        except OSError as error:
            found.left_out.append((results, f"cannot be read: {error.strerror}"))
            continue
        for name in names:
            if name.startswith(("rfMRI_", "tfMRI_")):
                yield subject, results / name


def _search(
    place: tuple[str, Path], *, dataset: str, families: Mapping[str, str], input: Input
) -> Found:
    """Find the best file of one run, its motion and its events."""
    subject, folder = place
    found = Found()
    try:
        names = set(os.listdir(folder))
    except NotADirectoryError:
        return found
    match = _RUN.match(folder.name)
    if match is None and folder.name not in _MERGED:
        found.left_out.append((folder, "not a folder of a single rest or task run"))
        return found
    if match is None or not (match["number"] or match["direction"]):
        some = any(name.endswith((".nii.gz", ".nii")) for name in names)
        merged = "several runs laid end to end, with jumps: only single runs are tokenized"
        found.left_out.append((folder, merged if some else "no time series in the folder"))
        return found
    best = _choose(folder, names, input, found)
    if not best:
        return found
    run_id = f"{dataset}_{subject}_{folder.name}"
    if "EVs" in names and folder.name.startswith("tfMRI_"):
        events = _events(folder / "EVs", found)
        if events:
            found.events.append((run_id, events))
    session = match["scanner"] or "3T"
    for path in best:
        found.files.append(
            RunFile(
                run_id=run_id,
                subject=subject,
                path=path,
                session=session,
                task="rest" if match["task"] == "REST" else match["task"].lower(),
                family=families.get(subject, ""),
                space="MNI152NLin6Asym" if input == "volume" else "fsLR",
                usual_tr=_usual(dataset, session, match["direction"]),
                motion=_motion(folder / _MOTION, found) if _MOTION in names else float("nan"),
            )
        )
    return found


def _usual(dataset: str, session: str, direction: str | None) -> tuple[float, ...]:
    """Return the usual repetition times of a scan, s; empty for simulated cohorts."""
    if dataset == "demo":
        return ()
    return _LIFESPAN if session == "3T" and direction in ("AP", "PA") else _SECONDS[session]


def _choose(folder: Path, names: set[str], input: Input, found: Found) -> list[Path]:
    """Return the best file, or several ambiguous ones. The others are listed as left out."""

    def paths(suffixes: Iterable[str]) -> list[Path]:
        return [folder / (folder.name + suffix) for suffix in suffixes]

    suffixes = _VOLUMES if input == "volume" else _GRAYORDINATES
    present = [s for s in suffixes if folder.name + s in names]
    if input == "surface":
        known = {folder.name + s for s in present}
        for name in sorted(n for n in names if n.endswith(".dtseries.nii") and n not in known):
            fine = "_1.6mm" in name
            found.left_out.append(
                (folder / name, "1.6 mm grayordinates on the 59k mesh: the 2 mm, 32k file is needed"
                 if fine else "not a time series of one of the known releases")
            )  # fmt: skip
    if not present:
        kind = "volume" if input == "volume" else "32k grayordinate"
        found.left_out.append((folder, f"no {kind} time series in the folder"))
        return []
    cleaning = _cleaning(present[0])
    best = [s for s in present if _cleaning(s) == cleaning]
    for path in paths(s for s in present if s not in best):
        found.left_out.append((path, "a cleaner file of the run is there"))
    if input == "surface":
        for path in paths(best[1:]):
            found.left_out.append((path, "the MSMAll file of the run is taken"))
        best = best[:1]
    return paths(best)


def _cleaning(suffix: str) -> str:
    return suffix.partition(".")[0].removeprefix("_Atlas").removeprefix("_MSMAll")


def _motion(path: Path, found: Found) -> float:
    """Return the mean relative displacement, mm."""
    try:
        return one_number(read_text(path))
    except UnreadableError as error:
        reason: object = error
    except ValueError:
        reason = Reason.NO_NUMBER
    found.questioned.append((path, Remark.NO_MOTION.with_reason(reason)))
    return float("nan")


def _events(folder: Path, found: Found) -> list[Event]:
    events: list[Event] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        reason = not_fetched(folder) or f"{Reason.ERROR}: {error.strerror}"
        found.questioned.append((folder, Remark.NO_EVENTS.with_reason(reason)))
        return events
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension != ".txt" or stem in _NOT_EVENTS:
            continue
        try:
            events += read_fsl_events(folder / name)
        except UnreadableError as error:
            found.questioned.append((folder / name, Remark.NO_EVENTS.with_reason(error)))
    return events
