"""Phenotype tables of ADHD-200: of single sites, combined, of the test set, and of BIDS exports.

Spellings of columns vary (``ScanDir ID``, ``ScanDirID``, ``Secondary Dx `` with a final space,
``QC_S1_Rest_1``). Ids lack leading zeros. Missing values are -999, ``N/A``, ``pending``, or empty.
Rows of one subject in several tables are joined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fmritok.errors import CatalogError
from fmritok.pipeline.catalog.phenotypes import (
    AGE,
    SEX,
    Column,
    Phenotypes,
    as_code,
    sex_labels,
    tidy,
)
from fmritok.pipeline.tables.ages import ages_in_years
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.subject_table import joined_rows, read_subject_table
from fmritok.pipeline.tables.text_numbers import first_examples
from fmritok.pipeline.tables.text_table import CSV
from fmritok.quantities import counted

__all__ = ["padded", "read_adhd200_phenotypes"]

_IDS = ("ScanDir ID", "ScanDirID", "ScanDir_ID", "Subject", "participant_id", "ID")
_MISSING = ("-999", "-999.0", "-999.00", "pending", "withheld")
_SITES = {"1": "Peking", "2": "Brown", "3": "KKI", "4": "NeuroIMAGE", "5": "NYU", "6": "OHSU",
          "7": "Pittsburgh", "8": "WashU"}  # fmt: skip
_TDC, _COMBINED, _HYPERACTIVE, _INATTENTIVE = (
    "TDC", "ADHD-Combined", "ADHD-Hyperactive/Impulsive", "ADHD-Inattentive",
)  # fmt: skip
#: Diagnoses by code and by label, in lower case.
_DX = {"0": _TDC, "1": _COMBINED, "2": _HYPERACTIVE, "3": _INATTENTIVE, "": "",
       "typicallydeveloping": _TDC, "typicallydevelopingchildren": _TDC, "tdc": _TDC,
       "control": _TDC, "adhdcombined": _COMBINED, "adhdinattentive": _INATTENTIVE,
       "adhdhyperactiveimpulsive": _HYPERACTIVE}  # fmt: skip
#: Spellings of columns, with other characters than letters and digits replaced by underscores.
_SPELLINGS = {"hyper_impulsive": "hyperactive_impulsive", "viq": "verbal_iq",
              "piq": "performance_iq", "full_2_iq": "full2_iq", "full_4_iq": "full4_iq",
              "meanfd": "mean_fd", "meanfd_jenkinson": "mean_fd_jenkinson",
              "qc_s1_anat": "qc_anatomical_1", "qc_anatomical": "qc_anatomical_1",
              "unnamed_0": ""}  # fmt: skip
_QUALITY = "1 if it passed"
_COLUMNS = {
    "sex": SEX,
    "age": AGE,
    "site": Column("site", kind="text"),
    "dx": Column(f"diagnosis: {_TDC}, {_COMBINED}, {_HYPERACTIVE} or {_INATTENTIVE}", kind="text"),
    "adhd": Column("1 with any ADHD, 0 without", kind="number"),
    "secondary_dx": Column("further diagnoses", kind="text"),
    "adhd_index": Column("ADHD symptoms; the scale is adhd_measure's"),
    "inattentive": Column("symptoms of inattention; the scale is adhd_measure's"),
    "hyperactive_impulsive": Column("symptoms of hyperactivity; the scale is adhd_measure's"),
    "verbal_iq": Column("verbal IQ", kind="number"),
    "performance_iq": Column("performance IQ", kind="number"),
    "full2_iq": Column("full-scale IQ, two subtests", kind="number"),
    "full4_iq": Column("full-scale IQ, four subtests", kind="number"),
    "mean_fd": Column("mean framewise displacement", "mm", kind="number"),
    "qc_athena": Column("quality of Athena's volumes", _QUALITY),
    "qc_niak": Column("quality of NIAK's volumes", _QUALITY),
}
_NUMBERS = {name for name, about in _COLUMNS.items() if about.kind == "number"}


def padded(subject: str) -> str:
    """Return the id of a subject with seven digits."""
    return subject.removeprefix("sub-").zfill(7)


def read_adhd200_phenotypes(
    root: Path, tables: Iterable[Path]
) -> tuple[Phenotypes, list[tuple[Path, str]]]:
    """Read and join phenotype tables, one row per subject.

    Tables of single sites take precedence over combined tables and those of the test set. Later
    tables fill missing values.

    Parameters
    ----------
    root : Path
        Folder of the cohort.
    tables : iterable of Path

    Returns
    -------
    Phenotypes
        With ``sex, age, site, dx, adhd``, and other columns in lower case.
    list of (Path, str)
        Tables that contradict an earlier one or are not phenotype tables, and reasons.

    Raises
    ------
    CatalogError
        If there are tables, but none has ids and rows that fit its header.
    """
    joined: pd.DataFrame | None = None
    left_out: list[tuple[Path, str]] = []
    questioned: list[tuple[Path, str]] = []
    source: dict[str, str] = {}
    refused: list[CatalogError] = []
    for path in sorted(
        tables, key=lambda p: (p.name.lower().startswith(("adhd200", "allsubs")), p)
    ):
        try:
            table, said = _harmonised(path)
        except UnreadableError as error:
            questioned.append((path, Remark.NO_PHENOTYPES.with_reason(error)))
            continue
        except CatalogError as error:
            refused.append(error)
            left_out.append((path, "not a phenotype table: no column of ids, or rows that "
                                   "do not fit the header"))  # fmt: skip
            continue
        questioned += [(path, words) for words in said]
        for column in table:
            source.setdefault(str(column), f"{path.name}: {column}")
        if joined is None:
            joined = table
            continue
        both = joined.index.intersection(table.index)
        for column in ("dx", "sex"):
            if column in joined and column in table:
                here, there = table.loc[both, column], joined.loc[both, column]
                other = both[(here != there) & (here != "") & (there != "")]
                if len(other):
                    left_out.append(
                        (path, f"another {column} than an earlier table for "
                         f"{counted(len(other), 'subject')}, such as {other[0]}: "
                         "the earlier one is taken")
                    )  # fmt: skip
        empty = joined.where(joined != "")
        joined = empty.combine_first(table.where(table != "")).fillna("")
    if joined is None and refused:
        raise refused[0]
    if joined is None or joined.empty:
        return Phenotypes(questioned=questioned), left_out
    first = [c for c in _COLUMNS if c in joined]
    joined = joined[first + [c for c in joined if c not in first]].reset_index()
    described = dict(_COLUMNS)
    for column in map(str, joined):
        if re.match(r"qc_(s\d_)?(rest|anat)", column):
            described[column] = Column(f"quality of the scan, {column[3:]}", _QUALITY)
    found = tidy("adhd200", joined, described, source=source, path=root)
    return replace(found, questioned=[*questioned, *found.questioned]), left_out


def _harmonised(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read one table of any dialect, and return it by subject with remarks."""
    table, said = read_subject_table(path, CSV, _IDS, missing=_MISSING)
    table["subject"] = table["subject"].map(padded)
    table = joined_rows(table, said)
    names = {c: _name(str(c)) for c in table if c != "subject"}
    table = table.rename(columns=names).set_index("subject")
    table = table.loc[:, (table.columns != "") & ~table.columns.duplicated()]
    for column in _NUMBERS.intersection(table.columns):
        table[column] = table[column].replace("L", "")  # in some rows of the test set's table
    if "age" in table:
        table["age"], doubts = ages_in_years(table["age"])
        said += doubts
    gender = next((c for c in ("gender", "sex") if c in table), None)
    if gender:
        table["sex"] = sex_labels(table[gender], {"0": "F", "1": "M"})
    if "site" in table:
        table["site"] = as_code(table["site"]).map(lambda site: _SITES.get(site, site))
    if "dx" in table:
        table["dx"] = _diagnoses(as_code(table["dx"]), said)
        table["adhd"] = table["dx"].map(lambda dx: "" if not dx else str(int(dx != _TDC)))
    elif "adhd" in table:
        table["adhd"] = as_code(table["adhd"])
        table["dx"] = _from_flags(table)
    return table.drop(columns=[c for c in ("gender",) if c in table]), said


def _name(column: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")
    name = re.sub(r"^qc_s1_rest_", "qc_rest_", name)
    return _SPELLINGS.get(name, name)


def _diagnoses(values: pd.Series, said: list[str]) -> pd.Series:
    keys = values.str.lower().str.replace(r"[^a-z0-9]", "", regex=True)
    unknown = values[~keys.isin(list(_DX))]
    if len(unknown):
        said.append(f"{Remark.DX_UNKNOWN}: {first_examples(unknown)}")
    return keys.map(_DX).fillna("")


def _from_flags(table: pd.DataFrame) -> pd.Series:
    """Derive the diagnosis from the columns of nilearn's table, one per diagnosis."""
    dx = pd.Series("", index=table.index)
    for column, label in (("adhd_inattentive", _INATTENTIVE), ("adhd_combined", _COMBINED),
                          ("tdc", _TDC)):  # fmt: skip
        if column in table:
            dx[as_code(table[column]) == "1"] = label
    return dx
