"""Files of a BIDS tree: entities in names, metadata inherited, and the best file of each run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["BidsFile", "BidsFolders", "parse_name", "surface_rank", "volume_rank"]

#: Entities that tell representations of one run apart, not runs.
_REPRESENTATION = ("space", "cohort", "res", "den", "desc", "hemi")
#: Fields by which a sidecar tells the times of frames.
_TIMES = {"RepetitionTime", "VolumeTiming"}
_MNI = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")


@dataclass(frozen=True)
class BidsFile:
    """A file by its name.

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
        """What all representations of the run share, as ``sub-01_task-rest_run-1``."""
        return "_".join(f"{k}-{v}" for k, v in self.entities.items() if k not in _REPRESENTATION)

    def named(self, suffix: str, extension: str, **changed: str) -> Path:
        """Return the path beside this one with another suffix and some entities replaced."""
        entities = {**self.entities, **changed}
        desc = entities.pop("desc", "")  # always the last one
        parts = [f"{k}-{v}" for k, v in entities.items()] + ([f"desc-{desc}"] if desc else [])
        return self.path.with_name("_".join([*parts, suffix]) + extension)


def parse_name(path: Path) -> BidsFile | None:
    """Take a BIDS name apart; None if it is none."""
    stem, dot, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = {}
    for pair in pairs:
        key, dash, value = pair.partition("-")
        if not (dash and key and value):
            return None
        entities[key] = value
    return BidsFile(path, entities, suffix, dot + extension)


def volume_rank(file: BidsFile) -> tuple[object, ...] | None:
    """Rank volumes of a run, the best first; None if they are in no space that can be used."""
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
    """The folders of one preprocessed data set and of the raw one that it was made of.

    Parameters
    ----------
    tree : Path
        Holds ``sub-*``.
    raw : Path, optional
        Holds the raw data's ``sub-*``, or nothing is known of them.
    """

    def __init__(self, tree: Path, raw: Path | None = None) -> None:
        self.tree, self.raw = tree, raw
        self._listed = cache(_list)  # the top folders are asked for by every run

    def functional(self, subject: str) -> list[BidsFile]:
        """Return the functional files of a subject's folder."""
        folder = self.tree / subject
        sessions = [folder / name for name in _list(folder) if name.startswith("ses-")]
        files = (
            parse_name(place / "func" / name)
            for place in [folder, *sessions]
            for name in _list(place / "func")
        )
        return [file for file in files if file is not None and "sub" in file.entities]

    def inherited(self, file: BidsFile, suffix: str, extension: str) -> Iterator[Path]:
        """Yield the files that apply to one by BIDS's inheritance, the most specific first.

        In each data set, raw data last, from the file's own folder up; a name applies if all its
        entities are the file's.
        """
        below = file.path.parent.relative_to(self.tree)
        for top in (self.tree, *([self.raw] if self.raw else [])):
            places = [top / below, *(top / parent for parent in below.parents)]
            for place in places:
                fitting = []
                for name in self._listed(place):
                    if name.endswith(f"{suffix}{extension}"):
                        other = parse_name(place / name)
                        if (other and other.suffix == suffix and other.extension == extension
                                and other.entities.items() <= file.entities.items()):  # fmt: skip
                            fitting.append(other)
                fitting.sort(key=lambda other: -len(other.entities))
                yield from (other.path for other in fitting)

    def sidecar_fields(self, file: BidsFile) -> dict[str, tuple[Any, Path]]:
        """Return the fields of all sidecars that apply to a file, and the sidecar each is from.

        Sidecars of the raw data are read only if those of the derivatives tell no times.

        Raises
        ------
        ValueError
            If a sidecar is no JSON; the message names it.
        """
        fields: dict[str, tuple[Any, Path]] = {}
        for path in self.inherited(file, file.suffix, ".json"):
            if not path.is_relative_to(self.tree) and fields.keys() & _TIMES:
                break
            try:
                content = dict(json.loads(path.read_text(encoding="utf-8-sig")))
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is no JSON sidecar") from error
            for name, value in content.items():
                if value is not None:
                    fields.setdefault(name, (value, path))
        return fields


def _list(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(n for n in os.listdir(folder) if not n.startswith(".")))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def safe_id(text: str) -> str:
    """Make text fit for a run id."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)
