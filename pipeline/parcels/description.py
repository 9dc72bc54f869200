"""The YAML file that describes a cohort of parcel time courses.

::

    root: rois_cc200                       # folder of the files; default: that of this file
    pattern: "{subject}_rois_cc200.1D"     # names of the files; see pipeline/parcels/pattern.py
    frames: rows                           # which axis is time: rows or columns
    skip: [File, Sub-brick]                # columns that are no parcels: names, or a number of them
    task: rest                             # task of all runs
    id_digits: 7                           # ids get zeros at the left, in files and tables
    tr: 2.0                                # s; or {NYU: 2.0, KKI: 2.5} by site; or a table:
    # tr: {table: trs.csv, site: SITE_ID, seconds: TR}    # `site`, `subject` or `file`
    atlas: atlas.tsv                       # or {table: cc200.csv, name: parcel, x: x_mm, ...}
    phenotypes:                            # or the name of the table
      table: participants.csv
      subject: SUB_ID
      missing: [-9999]
      columns: {age: AGE, sex: {column: SEX, codes: {1: M, 2: F}}, site: SITE_ID}

Paths are relative to this file. Without ``tr``, it is read from the JSON file beside each run or
from the header of ``ptseries.nii``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from fmritok.errors import CatalogError, expected, wrong_usage
from fmritok.pipeline.headers.timing import TR_RANGE_S
from fmritok.pipeline.tables.small_files import UnreadableError, read_text

__all__ = ["FILE_NAME", "Description", "PhenotypeTable", "TimeTable", "read_description"]

#: Name of the file in the root of a cohort.
FILE_NAME = "parcels.yaml"
_KEYS = ("root", "pattern", "frames", "skip", "task", "id_digits", "tr", "atlas", "phenotypes")
_ATLAS_COLUMNS = ("name", "network", "image", "label", "x", "y", "z", "radius")
_OF_TIMES = ("site", "subject", "file")


@dataclass(frozen=True)
class TimeTable:
    """A table of repetition times.

    Attributes
    ----------
    path : Path
    by : {"site", "subject", "file"}
        What a row is of.
    key, seconds : str
        Columns with the site, subject or file, and with the repetition time in s.
    """

    path: Path
    by: Literal["site", "subject", "file"]
    key: str
    seconds: str


@dataclass(frozen=True)
class PhenotypeTable:
    """A table of subjects.

    Attributes
    ----------
    path : Path
    subject : str
        Column with the ids; empty for one of the usual names.
    missing : tuple of str
        Texts of missing values, besides empty cells and ``n/a``.
    columns : dict of str to str
        Columns of the table by the name that they get.
    codes : dict of str to dict of str to str
        Meaning of codes, by the name that the column gets.
    units : dict of str to str
    """

    path: Path
    subject: str = ""
    missing: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """A cohort of parcel time courses, as its YAML file says.

    Attributes
    ----------
    path : Path
        The YAML file.
    root : Path
        Folder of the runs.
    patterns : tuple of str
        Patterns of their files, below the root.
    atlas : dict
        Options ``atlas``, ``columns`` and ``networks_from`` of the tokenizer ``network``.
    frames : {"rows", "columns", ""}
    skip : tuple of str, or int
    task : str
    id_digits : int
        0 to leave ids as they are.
    tr : float, dict of str to float, TimeTable or None
        For all runs, by site, or in a table; s.
    phenotypes : PhenotypeTable, optional
    """

    path: Path
    root: Path
    patterns: tuple[str, ...]
    atlas: Mapping[str, Any]
    frames: Literal["rows", "columns", ""] = ""
    skip: tuple[str, ...] | int = ()
    task: str = ""
    id_digits: int = 0
    tr: float | Mapping[str, float] | TimeTable | None = None
    phenotypes: PhenotypeTable | None = None


def read_description(root: Path) -> Description:
    """Read the description of a cohort.

    Parameters
    ----------
    root : Path
        The YAML file, or a folder with ``parcels.yaml``.

    Raises
    ------
    CatalogError
        If there is no such file, or a key or value is wrong.
    """
    root = root.expanduser().absolute()
    path = root / FILE_NAME if root.is_dir() else root
    return _Reader(path).description()


class _Reader:
    """The tree of a YAML file, checked while it is read."""

    def __init__(self, path: Path) -> None:
        import yaml

        self.path = path
        try:
            tree = yaml.safe_load(read_text(path))
        except (UnreadableError, yaml.YAMLError, RecursionError) as error:
            got = " ".join(str(error).split()) or type(error).__name__
            raise wrong_usage(CatalogError(
                expected("Description of the cohort", path, "a YAML file with `pattern` and "
                         "`atlas`", got, "Write one: docs/parcels.md has examples.")
            )) from error  # fmt: skip
        self.tree = self._mapping(tree, "the file", _KEYS)

    def description(self) -> Description:
        folder = self.path.parent
        for key in ("pattern", "atlas"):
            if key not in self.tree:
                raise self._refusal(key, "a value", "none", f"Add {key} to the file.")
        patterns = self._texts("pattern", self.tree["pattern"])
        frames = self._text("frames", self.tree.get("frames", ""))
        if frames not in ("rows", "columns", ""):
            raise self._refusal("frames", "rows or columns", repr(frames),
                                "Say which axis of the files is time.")  # fmt: skip
        root = folder / self._text("root", self.tree.get("root", "."))
        if not root.is_dir():
            raise self._refusal("root", "a folder", root, "Correct the path.")
        digits = self.tree.get("id_digits", 0)
        if type(digits) is not int or digits < 0:
            raise self._refusal("id_digits", "a number of digits", repr(digits), "Correct it.")
        skip = self.tree.get("skip", [])
        return Description(
            self.path,
            root.resolve(),
            patterns,
            self._atlas(self.tree["atlas"]),
            frames,  # type: ignore[arg-type]
            skip if type(skip) is int and skip >= 0 else self._texts("skip", skip),
            self._text("task", self.tree.get("task", "")),
            digits,
            self._times(self.tree.get("tr")),
            self._phenotypes(self.tree.get("phenotypes")),
        )

    def _atlas(self, value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            return {"atlas": self._atlas_path("atlas", value)}
        keys = ("table", "networks_from", *_ATLAS_COLUMNS)
        about = {k: self._text(f"atlas.{k}", v) for k, v in
                 self._mapping(value, "atlas", keys).items()}  # fmt: skip
        if "table" not in about:
            raise self._refusal("atlas", "a table", "none", "Add the name of the atlas's table.")
        options: dict[str, Any] = {"atlas": self._atlas_path("atlas", about.pop("table"))}
        if "networks_from" in about:
            options["networks_from"] = self._atlas_path("atlas", about.pop("networks_from"))
        return options | ({"columns": about} if about else {})

    def _atlas_path(self, key: str, name: str) -> str:
        """Return the path of a table or folder, or the name of an atlas that is built in."""
        path = self.path.parent / Path(name).expanduser()
        if path.exists():
            return str(path)
        if "/" in name or "." in name:
            raise self._refusal(key, "a table of parcels", f"{path}, which is not there",
                                "Correct the path.")  # fmt: skip
        return name

    def _times(self, value: Any) -> float | dict[str, float] | TimeTable | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            return self.seconds("tr", value)
        if "table" not in value:
            return {str(site): self.seconds(f"tr of site {site}", v) for site, v in value.items()}
        about = self._mapping(value, "tr", ("table", "seconds", *_OF_TIMES))
        by = [name for name in _OF_TIMES if name in about]
        if len(by) != 1 or "seconds" not in about:
            raise self._refusal(
                "tr", "`seconds` and one of `site`, `subject` and `file`, each a column of the "
                "table", ", ".join(about), "Such as {table: trs.csv, site: SITE, seconds: TR}.",
            )  # fmt: skip
        texts = {k: self._text(f"tr.{k}", v) for k, v in about.items()}
        return TimeTable(self._file("tr.table", texts["table"]), by[0], texts[by[0]],  # type: ignore[arg-type]
                         texts["seconds"])  # fmt: skip

    def seconds(self, where: str, value: Any) -> float:
        """Return a repetition time, s."""
        low, high = TR_RANGE_S
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and low <= value <= high:
            return float(value)
        looks = " (these look like milliseconds)" if is_number and value / 1000 >= low else ""
        raise self._refusal(where, f"seconds, {low:g} to {high:g}", f"{value!r}{looks}",
                            "Correct it.")  # fmt: skip

    def _phenotypes(self, value: Any) -> PhenotypeTable | None:
        if value is None:
            return None
        if isinstance(value, str):
            return PhenotypeTable(self._file("phenotypes", value))
        about = self._mapping(value, "phenotypes", ("table", "subject", "missing", "columns"))
        if "table" not in about:
            raise self._refusal("phenotypes", "a table", "none", "Add the name of the table.")
        columns, codes, units = {}, {}, {}
        for name, of in self._mapping(about.get("columns", {}), "phenotypes.columns").items():
            where = f"phenotypes.columns.{name}"
            if not isinstance(of, dict):
                columns[name] = self._text(where, of)
                continue
            of = self._mapping(of, where, ("column", "codes", "unit"))
            columns[name] = self._text(where, of.get("column", name))
            units[name] = self._text(where, of.get("unit", ""))
            if "codes" in of:
                meant = self._mapping(of["codes"], f"{where}.codes")
                codes[name] = {k: self._text(where, v) for k, v in meant.items()}
        return PhenotypeTable(
            self._file("phenotypes.table", self._text("phenotypes.table", about["table"])),
            self._text("phenotypes.subject", about.get("subject", "")),
            self._texts("phenotypes.missing", about.get("missing", [])),
            columns,
            codes,
            units,
        )

    def _file(self, key: str, name: str) -> Path:
        """Return the path of a file beside the description; ``*`` in its name is allowed."""
        path = self.path.parent / Path(name).expanduser()
        found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        if len(found) != 1 or not found[0].is_file():
            raise self._refusal(key, "one file", f"{path}, which is "
                                + ("not there" if len(found) < 2 else f"{len(found)} files"),
                                "Correct the path.")  # fmt: skip
        return found[0]

    def _mapping(
        self, value: Any, where: str, keys: Collection[str] | None = None
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._refusal(where, "keys with values", repr(value), "Correct it.")
        found = {str(key): one for key, one in value.items()}
        known = found if keys is None else keys
        for key in found:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                raise self._refusal(
                    f"key of {where}",
                    f"one of {', '.join(known)}",
                    repr(key),
                    f"Did you mean {near[0]}?" if near else "Remove it.",
                )
        return found

    def _text(self, where: str, value: Any) -> str:
        if isinstance(value, dict | list) or value is None or isinstance(value, bool):
            raise self._refusal(where, "text", repr(value),
                                "Put it in quotes, as text with braces has to be.")  # fmt: skip
        return str(value)

    def _texts(self, where: str, value: Any) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        return tuple(self._text(where, one) for one in values)

    def _refusal(self, key: str, wanted: str, got: object, next_step: str) -> CatalogError:
        error = CatalogError(expected(f"{key} in", self.path, wanted, got, next_step))
        return wrong_usage(error)
