"""Adapter of UK Biobank: the bulk fields of functional MRI, as downloaded zip files or unpacked.

``<eid>_<field>_<instance>_<array>`` is a zip file or a folder, at the root or below it (the
research platform sorts them into folders by the first digits). Instances 2, 3, ... are imaging
visits.

- 20227, rest: ``fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz`` is in native space; its warp to
  MNI is ``rfMRI.ica/reg/example_func2standard_warp.nii.gz``. Unusable scans have a folder
  ``unusable`` instead of ``rfMRI.ica``. A warped ``filtered_func_data_clean_standard.nii.gz`` is
  used if it exists.
- 20249, the faces/shapes task: ``fMRI/tfMRI.feat/filtered_func_data.nii.gz``, with its own ``reg``.
  There are no events: the timing is the same for all and not in the download (from memory).
- 32136, surfaces: ``surf_fMRI/CIFTIs/bb.{rfMRI,tfMRI}.MNI.MSMAll.dtseries.nii``.

Phenotypes: tables with a column ``eid``, ``f.eid`` or ``participant.eid`` at the root. Head motion
is read from ``mc/prefiltered_func_data_mcf_rel_mean.rms``, else from fields 25741 and 25742.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from fmritok.errors import expected
from fmritok.pipeline.catalog.building import build_cohort
from fmritok.pipeline.catalog.cohort import Cohort, Input
from fmritok.pipeline.catalog.found import Found, RunFile, checked_root, gather
from fmritok.pipeline.datasets.ukb_phenotypes import read_ukb_phenotypes
from fmritok.pipeline.sources.files import read_small
from fmritok.pipeline.sources.zip_members import open_zip
from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import UnreadableError, decode_text, read_text
from fmritok.pipeline.tables.text_numbers import one_number

__all__ = ["catalog_ukb"]

_BULK = re.compile(r"^(?P<eid>\d{7})_(?P<field>\d+)_(?P<instance>\d+)_(?P<array>\d+)(\.zip)?$")
_WARP = "reg/example_func2standard_warp"
#: Largest file with a single number, bytes.
_NUMBER_BYTES = 4096
#: Depth of folders above a download, such as /Bulk/Brain MRI/Resting functional brain MRI/10/.
_DEPTH = 6
#: Repetition time of all functional scans, s.
_SECONDS = (0.735,)
_MOTION = "mc/prefiltered_func_data_mcf_rel_mean.rms"
_LOOKED_FOR = {
    "volume": "<eid>_20227_2_0 or <eid>_20249_2_0, folders or .zip",
    "surface": "<eid>_32136_2_0, folders or .zip",
}


@dataclass(frozen=True)
class _Series:
    """Paths of the volumes of one field: in MNI space, or in native space with a warp."""

    task: str
    folder: str
    warped: tuple[str, ...]
    native: str


_VOLUMES = {
    "20227": _Series("rest", "rfMRI.ica", ("filtered_func_data_clean_standard",),
                     "filtered_func_data_clean"),
    "20249": _Series("emotion", "tfMRI.feat",
                     ("filtered_func_data_clean_standard", "filtered_func_data_standard"),
                     "filtered_func_data"),
}  # fmt: skip
_SURFACES = {
    "rest": "surf_fMRI/CIFTIs/bb.rfMRI.MNI.MSMAll.dtseries.nii",
    "emotion": "surf_fMRI/CIFTIs/bb.tfMRI.MNI.MSMAll.dtseries.nii",
}


@dataclass(frozen=True)
class _Bulk:
    """One download: a folder or a zip file."""

    path: Path
    eid: str
    field: str
    instance: str
    array: str

    @property
    def is_zip(self) -> bool:
        return self.path.suffix == ".zip"

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        """The open zip file. Reading its index takes milliseconds, so it is cached."""
        stack = self.__dict__["stack"] = ExitStack()
        return stack.enter_context(open_zip(self.path))

    @cached_property
    def names(self) -> set[str]:
        """Names of files and folders in the zip file, from its index."""
        names = self.archive.namelist()
        return {n.rstrip("/") for n in names} | {n.rpartition("/")[0] for n in names}

    def find(self, name: str) -> Path | None:
        """Find a file or folder, also below the extra folders that a download may have."""
        for top in ("fMRI", "", f"{self.path.stem}/fMRI", self.path.stem):
            member = PurePosixPath(top, name)
            if str(member) in self.names if self.is_zip else os.path.lexists(self.path / member):
                return self.path / member
        return None

    def read_text(self, member: Path) -> str:
        if self.is_zip:
            return decode_text(read_small(member, _NUMBER_BYTES, self.archive))
        return read_text(member, limit=_NUMBER_BYTES)

    def close(self) -> None:
        """Close the zip file and free its index. All indices would be larger than the catalogue."""
        self.__dict__.pop("names", None)
        self.__dict__.pop("archive", None)
        if stack := self.__dict__.pop("stack", None):
            stack.close()

    def run(self, task: str, path: Path, space: str = "MNI152NLin6Asym") -> RunFile:
        extra = "" if self.array == "0" else f"_{self.array}"
        return RunFile(
            run_id=f"ukb_{self.eid}_{self.instance}_{task}{extra}",
            subject=self.eid,
            path=path,
            session=self.instance,
            task=task,
            space=space,
            usual_tr=_SECONDS,
        )


def catalog_ukb(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue functional MRI of UK Biobank.

    Raises
    ------
    CatalogError
        If the root is not a folder or has no run, or a phenotype table is broken.
    """
    root = checked_root(root)
    fields = set(_VOLUMES) if input == "volume" else {"32136"}
    downloads: dict[tuple[str, ...], list[_Bulk]] = {}
    found = Found()
    for bulk in _downloads(root, found):
        if bulk.field in fields:
            key = (bulk.eid, bulk.field, bulk.instance, bulk.array)
            downloads.setdefault(key, []).append(bulk)
    search = partial(_search, input=input)
    found.add(gather(search, downloads.values(), where=lambda copies: copies[0].path))
    visits = {(file.subject, file.session) for file in found.files}
    phenotypes, left_out = read_ukb_phenotypes(root, visits)
    found.left_out += left_out
    known = phenotypes.table.set_index(["subject", "session"]).to_dict("index")
    found.files = [
        _with_phenotypes(file, known.get((file.subject, file.session), {})) for file in found.files
    ]
    return build_cohort("ukb", root, found, phenotypes, tr=tr, looked_for=_LOOKED_FOR[input])


def _downloads(folder: Path, found: Found, depth: int = 0) -> Iterator[_Bulk]:
    """Find all downloads in a tree. Unreadable folders are listed as left out."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.left_out.append((folder, f"cannot be read: {error.strerror}"))
        return
    for entry in listed:
        match = _BULK.match(entry.name)
        if match and entry.name.endswith(".zip") != entry.is_dir():
            yield _Bulk(Path(entry.path), *match.group("eid", "field", "instance", "array"))
        elif match and not entry.is_dir() and entry.is_symlink():
            found.left_out.append((Path(entry.path), Reason.LINK))
        elif not match and depth < _DEPTH and entry.is_dir() and not entry.name.startswith("."):
            yield from _downloads(Path(entry.path), found, depth + 1)


def _search(copies: list[_Bulk], *, input: Input) -> Found:
    """Find the runs of one download. Copies may exist as a zip file and as folders."""
    found = Found()
    for bulk in sorted(copies, key=lambda copy: (copy.is_zip, copy.path)):
        if found.files:
            found.left_out.append((bulk.path, "another copy of this download is taken, a folder "
                                   "rather than a zip"))  # fmt: skip
            continue
        try:
            if input == "surface":
                _surfaces(bulk, found)
            else:
                _volumes(bulk, _VOLUMES[bulk.field], found)
        except OSError:
            found.left_out.append((bulk.path, "cannot be read: download it again"))
        finally:
            bulk.close()
    return found


def _surfaces(bulk: _Bulk, found: Found) -> None:
    for task, name in _SURFACES.items():
        path = bulk.find(name)
        if path is not None:
            found.files.append(bulk.run(task, path, "fsLR"))
    if not found.files:
        found.left_out.append((bulk.path, f"no {_SURFACES['rest']} in it"))


def _volumes(bulk: _Bulk, series: _Series, found: Found) -> None:
    def image(*names: str) -> Path | None:
        files = (bulk.find(f"{name}{end}") for name in names for end in (".nii.gz", ".nii"))
        return next((file for file in files if file), None)

    places = (f"{series.folder}/", f"{series.folder}/reg/", "")
    warped = image(*(place + name for place in places for name in series.warped))
    native = image(f"{series.folder}/{series.native}")
    if warped:
        run = bulk.run(series.task, warped)
    elif native:
        run = replace(bulk.run(series.task, native), warp=image(f"{series.folder}/{_WARP}"))
        if run.warp is None:
            problem = expected(
                "Volumes", native, f"{series.folder}/{_WARP}.nii.gz in the same download",
                "native space without a warp to MNI",
                "Download the whole field again, or apply the warp with applywarp and name the "
                f"result {series.folder}/{series.warped[0]}.nii.gz.",
            )  # fmt: skip
            run = replace(run, space="native", problem=problem)
    else:
        reason = f"no {series.folder}/{series.native}.nii.gz in it"
        if bulk.find("unusable"):
            reason = "marked as unusable by UK Biobank"
        found.left_out.append((bulk.path, reason))
        return
    motion = bulk.find(f"{series.folder}/{_MOTION}")
    if motion is not None:
        try:
            run = replace(run, motion=one_number(bulk.read_text(motion)))
        except UnreadableError as error:
            found.questioned.append((motion, Remark.NO_MOTION.with_reason(error)))
        except OSError as error:
            found.questioned.append((motion, Remark.NO_MOTION.with_reason(error.strerror)))
        except ValueError:
            found.questioned.append((motion, Remark.NO_MOTION.with_reason(Reason.NO_NUMBER)))
    found.files.append(run)


def _with_phenotypes(file: RunFile, row: Mapping[Hashable, object]) -> RunFile:
    """Add values of the tables: the site of the visit, and motion if no file has it."""
    site = str(row.get("site", ""))
    motion = row.get("rest_motion" if file.task == "rest" else "task_motion", float("nan"))
    if file.motion == file.motion:
        return replace(file, site=site)
    return replace(file, site=site, motion=float(str(motion)))
