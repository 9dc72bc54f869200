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

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fmritok.pipeline.headers.timing import TR_RANGE_S
from fmritok.pipeline.parcels.checked_yaml import CheckedYaml

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
    yaml = CheckedYaml(path)
    tree = yaml.mapping(yaml.content, "", _KEYS)
    for key in ("pattern", "atlas"):
        if key not in tree:
            raise yaml.refusal(key, "a value", "none", f"Add {key} to the file.")
    patterns = yaml.texts("pattern", tree["pattern"])
    frames = yaml.text("frames", tree.get("frames", ""))
    if frames not in ("rows", "columns", ""):
        raise yaml.refusal(
            "frames", "rows or columns", repr(frames), "Say which axis of the files is time."
        )
    folder = path.parent / yaml.text("root", tree.get("root", "."))
    if not folder.is_dir():
        raise yaml.refusal("root", "a folder", folder, "Correct the path.")
    digits = tree.get("id_digits", 0)
    if type(digits) is not int or digits < 0:
        raise yaml.refusal("id_digits", "a number of digits", repr(digits), "Correct it.")
    skip = tree.get("skip", [])
    return Description(
        path,
        folder.resolve(),
        patterns,
        _atlas(yaml, tree["atlas"]),
        frames,  # type: ignore[arg-type]
        skip if type(skip) is int and skip >= 0 else yaml.texts("skip", skip),
        yaml.text("task", tree.get("task", "")),
        digits,
        _times(yaml, tree.get("tr")),
        _phenotypes(yaml, tree.get("phenotypes")),
    )


def _atlas(yaml: CheckedYaml, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"atlas": _atlas_path(yaml, "atlas", value)}
    keys = ("table", "networks_from", *_ATLAS_COLUMNS)
    about = {k: yaml.text(f"atlas.{k}", v) for k, v in
             yaml.mapping(value, "atlas", keys).items()}  # fmt: skip
    if "table" not in about:
        raise yaml.refusal("atlas", "a table", "none", "Add the name of the atlas's table.")
    options: dict[str, Any] = {"atlas": _atlas_path(yaml, "atlas", about.pop("table"))}
    if "networks_from" in about:
        options["networks_from"] = _atlas_path(yaml, "atlas", about.pop("networks_from"))
    return options | ({"columns": about} if about else {})


def _atlas_path(yaml: CheckedYaml, key: str, name: str) -> str:
    """Return the path of a table or folder, or the name of an atlas that is built in."""
    path = yaml.path.parent / Path(name).expanduser()
    if path.exists():
        return str(path)
    if "/" in name or "." in name:
        raise yaml.refusal(
            key, "a table of parcels", f"{path}, which is not there", "Correct the path."
        )
    return name


def _times(yaml: CheckedYaml, value: Any) -> float | dict[str, float] | TimeTable | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        return _seconds(yaml, "tr", value)
    if "table" not in value:
        return {str(site): _seconds(yaml, f"tr of site {site}", v) for site, v in value.items()}
    about = yaml.mapping(value, "tr", ("table", "seconds", *_OF_TIMES))
    by = [name for name in _OF_TIMES if name in about]
    if len(by) != 1 or "seconds" not in about:
        raise yaml.refusal(
            "tr",
            "`seconds` and one of `site`, `subject` and `file`, each a column of the table",
            ", ".join(about),
            "Such as {table: trs.csv, site: SITE, seconds: TR}.",
        )
    texts = {k: yaml.text(f"tr.{k}", v) for k, v in about.items()}
    return TimeTable(yaml.file("tr.table", texts["table"]), by[0], texts[by[0]],  # type: ignore[arg-type]
                     texts["seconds"])  # fmt: skip


def _seconds(yaml: CheckedYaml, where: str, value: Any) -> float:
    """Return a repetition time, s."""
    low, high = TR_RANGE_S
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and low <= value <= high:
        return float(value)
    looks = " (these look like milliseconds)" if is_number and value / 1000 >= low else ""
    raise yaml.refusal(where, f"seconds, {low:g} to {high:g}", f"{value!r}{looks}", "Correct it.")


def _phenotypes(yaml: CheckedYaml, value: Any) -> PhenotypeTable | None:
    if value is None:
        return None
    if isinstance(value, str):
        return PhenotypeTable(yaml.file("phenotypes", value))
    about = yaml.mapping(value, "phenotypes", ("table", "subject", "missing", "columns"))
    if "table" not in about:
        raise yaml.refusal("phenotypes", "a table", "none", "Add the name of the table.")
    columns, codes, units = {}, {}, {}
    for name, of in yaml.mapping(about.get("columns", {}), "phenotypes.columns").items():
        where = f"phenotypes.columns.{name}"
        if not isinstance(of, dict):
            columns[name] = yaml.text(where, of)
            continue
        of = yaml.mapping(of, where, ("column", "codes", "unit"))
        columns[name] = yaml.text(where, of.get("column", name))
        units[name] = yaml.text(where, of.get("unit", ""))
        if "codes" in of:
            meant = yaml.mapping(of["codes"], f"{where}.codes")
            codes[name] = {k: yaml.text(where, v) for k, v in meant.items()}
    return PhenotypeTable(
        yaml.file("phenotypes.table", yaml.text("phenotypes.table", about["table"])),
        yaml.text("phenotypes.subject", about.get("subject", "")),
        yaml.texts("phenotypes.missing", about.get("missing", [])),
        columns,
        codes,
        units,
    )
