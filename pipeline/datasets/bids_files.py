"""Files of a BIDS tree: entities in names, inheritance of metadata, ranking of representations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from fmritok.pipeline.catalog.run_checks import loose_label
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError, read_json

__all__ = ["BidsFile", "BidsFolders", "parse_name", "safe_id", "surface_rank", "volume_rank"]

#: Entities of representations: files of the same run may differ in them.
_REPRESENTATION = ("space", "cohort", "res", "den", "desc", "hemi")
#: Entities with indices: 1 equals 01. All others are labels, compared as text.
_INDICES = frozenset({"run", "echo", "flip", "inv", "split", "chunk"})
_MNI = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
#: Fields of a sidecar with the timing of frames.
_TIMES = ("RepetitionTime", "VolumeTiming")
#: Cached sidecars and folders. Many runs share the same ones.
_KEPT = 512


@dataclass(frozen=True)
class BidsFile:
    """A file with its parsed BIDS name.

    Attributes
    ----------
    path : Path
    entities : mapping of str to str
        ``sub``, ``ses``, ``task``, ...; in the order of the name.
    suffix : str
        ``bold``, ``events``, ...
    extension : str
        From the first dot on.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def run(self) -> str:
        """Name of the run without entities of representations: ``sub-01_task-rest_run-1``."""
        return "_".join(f"{k}-{v}" for k, v in self.entities.items() if k not in _REPRESENTATION)

    @cached_property
    def compared(self) -> dict[str, str]:
        """Entities in comparable form: indices as numbers, labels as text."""
        return {
            key: (value.lstrip("0") or "0") if key in _INDICES and value.isdecimal() else value
            for key, value in self.entities.items()
        }

    @cached_property
    def run_key(self) -> tuple[tuple[str, str], ...]:
        """Key of the run, independent of the order of entities and of leading zeros."""
        pairs = self.compared.items()
        return tuple(sorted((k, v) for k, v in pairs if k not in _REPRESENTATION))

    def applies_to(self, other: BidsFile) -> bool:
        """Whether the other file has all entities of this file."""
        return self.compared.items() <= other.compared.items()

    def nearly_applies_to(self, other: BidsFile) -> bool:
        """Whether it nearly applies: except for case, zeros, signs or extra entities."""
        loose, others = ({k: loose_label(v) for k, v in f.entities.items()} for f in (self, other))
        return all(others.get(key, value) == value for key, value in loose.items())


def parse_name(path: Path) -> BidsFile | None:
    """Parse a BIDS file name; None if it is not one."""
    *pairs, last = path.name.split("_")
    suffix, dot, extension = last.partition(".")  # labels may have dots: res-2.5
    entities = {}
    for pair in pairs:
        key, dash, value = pair.partition("-")
        if not (dash and key and value):
            return None
        entities[key] = value
    return BidsFile(path, entities, suffix, dot + extension)


def volume_rank(file: BidsFile) -> tuple[object, ...] | None:
    """Rank volumes of a run, best first; None for unsupported spaces."""
    space = file.entities.get("space", "")
    if space not in _MNI or "cohort" in file.entities:
        return None
    resolution = file.entities.get("res", "")
    grid = 0 if resolution in ("2", "02") else 1 if not resolution else 2
    return _MNI.index(space), grid, resolution, *_processing(file)


def surface_rank(file: BidsFile) -> tuple[object, ...] | None:
    """Rank surface time series of a run: grayordinates, then fsLR 32k, then fsaverage5 pairs."""
    space, density = file.entities.get("space"), file.entities.get("den", "")
    if file.extension == ".dtseries.nii" and space == "fsLR" and density in ("91k", ""):
        return 0, *_processing(file)
    if file.extension.startswith(".func.gii"):
        if space == "fsLR" and density in ("32k", ""):
            return 1, *_processing(file)
        if space == "fsaverage5" or (space == "fsaverage" and density == "10k"):
            return 2, *_processing(file)
    return None


def _processing(file: BidsFile) -> tuple[bool, str]:
    description = file.entities.get("desc", "")
    return description not in ("preproc", ""), description


class BidsFolders:
    """Folders of a preprocessed data set and of its raw data.

    Parameters
    ----------
    tree : Path
        Folder with the preprocessed ``sub-*``.
    raw : Path, optional
        Folder with the raw ``sub-*``, if known.
    """

    def __init__(self, tree: Path, raw: Path | None = None) -> None:
        self.tree, self.raw = tree, raw
        self._named = lru_cache(_KEPT)(_named)
        self._fields = lru_cache(_KEPT)(_fields)

    def functional(self, subject: str) -> list[BidsFile]:
        """Return the functional files of a subject.

        Raises
        ------
        OSError
            If a folder cannot be read.
        """
        files = (file for place in self._folders_of(subject) for file in self._files(place))
        return [file for file in files if "sub" in file.entities]

    def unnamed(self, subject: str, extensions: tuple[str, ...]) -> list[Path]:
        """Return the functional files of a subject with these extensions but no BIDS name."""
        named = {file.path for file in self.functional(subject)}
        paths = (place / name for place in self._folders_of(subject) for name in _list(place))
        return [p for p in paths if p.name.lower().endswith(extensions) and p not in named]

    def _folders_of(self, subject: str) -> list[Path]:
        """Return the functional folders of a subject."""
        folder = self.tree / subject
        sessions = [folder / name for name in _list(folder) if name.startswith("ses-")]
        return [place / "func" for place in [folder, *sessions]]

    def tables_of(self, subject: str) -> list[Path]:
        """Return the sessions table of a subject, from the raw data or else the derivatives."""
        for top in reversed(self._tops()):
            name = f"{subject}_sessions.tsv"
            if any(file.path.name == name for file in self._files(top / subject)):
                return [top / subject / name]
        return []

    def inherited(self, file: BidsFile, suffix: str, extension: str) -> Iterator[BidsFile]:
        """Yield the files that apply to a file by BIDS inheritance, most specific first.

        Derivatives come before raw data. In each, the search goes from the file's folder upwards. A
        file applies if the given file has all of its entities.
        """
        for top in self._tops():
            yield from self._inherited(top, file, suffix, extension)

    def nearly(self, file: BidsFile, suffix: str, extension: str) -> list[BidsFile]:
        """Return the files of a session that would apply with a slightly different name."""
        below = file.path.parent.relative_to(self.tree)
        found = []
        for top in self._tops():
            places = [top / below]
            if "ses" in file.entities:
                subject = top / below.parent.parent
                sessions = (name for name in _list(subject) if name.startswith("ses-"))
                places = [subject / name / below.name for name in sessions]
            for place in places:
                found += [
                    other
                    for other in self._files(place)
                    if (other.suffix, other.extension) == (suffix, extension)
                    and not other.applies_to(file)
                    and other.nearly_applies_to(file)
                ]
        return found

    def sidecar(
        self, file: BidsFile, questioned: list[tuple[Path, str]] | None = None
    ) -> dict[str, tuple[Any, Path]]:
        """Return the fields of all applicable sidecars, each with its file.

        The most specific sidecar with a field counts. Sidecars of the raw data are read only if
        those of the derivatives have no timing.

        Parameters
        ----------
        file : BidsFile
        questioned : list of (Path, str), optional
            Unreadable sidecars and reasons are appended here.
        """
        merged: dict[str, tuple[Any, Path]] = {}
        for top in self._tops():
            for other in self._inherited(top, file, file.suffix, ".json"):
                fields, reason = self._fields(other.path)
                for name, value in fields.items():
                    if value is not None:
                        merged.setdefault(name, (value, other.path))
                if reason and questioned is not None:
                    questioned.append((other.path, Remark.NO_SIDECAR.with_reason(reason)))
            if any(field in merged for field in _TIMES):
                break
        return merged

    def _tops(self) -> tuple[Path, ...]:
        return (self.tree, self.raw) if self.raw else (self.tree,)

    def _inherited(
        self, top: Path, file: BidsFile, suffix: str, extension: str
    ) -> Iterator[BidsFile]:
        below = file.path.parent.relative_to(self.tree)
        for place in [top / below, *(top / parent for parent in below.parents)]:
            fitting = [
                other
                for other in self._files(place)
                if (other.suffix, other.extension) == (suffix, extension) and other.applies_to(file)
            ]
            yield from sorted(fitting, key=lambda other: -len(other.entities))

    def _files(self, folder: Path) -> tuple[BidsFile, ...]:
        return self._named(folder)


def _named(folder: Path) -> tuple[BidsFile, ...]:
    """Return the files of a folder with BIDS names."""
    files = (parse_name(folder / name) for name in _list(folder))
    return tuple(file for file in files if file is not None)


def _fields(path: Path) -> tuple[dict[str, Any], str]:
    """Return the fields of a sidecar, and the reason if it cannot be used."""
    try:
        return read_json(path), ""
    except UnreadableError as error:
        return {}, str(error)


def _list(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(n for n in os.listdir(folder) if not n.startswith(".")))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def safe_id(text: str) -> str:
    """Replace characters that are invalid in a run id."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)
