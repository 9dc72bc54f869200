"""Tables of atlases: parcels with their networks, and the places of their labels.

A table is tab-separated and has one row per parcel. Label images lie in the same folder::

    name                 network  image                label  cifti_image        cifti_label
    7Networks_LH_Vis_1   Vis      Schaefer.nii.gz      51     Schaefer.dlabel.nii 51
    HIP-rh               Tian     Schaefer.nii.gz      1
    Buckner_1            Buckner  Buckner.nii.gz       1

``image`` is a label image in MNI space, for volumes and for the voxels of CIFTI files.
``cifti_image`` is a ``dlabel.nii``, for all grayordinates of CIFTI files. It takes precedence.
Instead of ``image`` and ``label``, a table may have ``x``, ``y``, ``z`` and ``radius`` in mm. Time
courses of parcels need no radius. A table may have other names of columns, and be a CSV file.

A column ``space`` (one value in all rows) says the space of images and coordinates: ``MNI152``, or
a version of it, such as ``MNI152NLin6Asym``.

Without a column ``network``, each parcel gets the network of the nearest coordinate of an atlas
that has networks.
"""

from __future__ import annotations

import csv
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from fmritok.errors import AtlasError, expected
from fmritok.regular import check_regular
from fmritok.tokenizers.mni import MNI152, VERSIONS

__all__ = ["EMBEDDED_ATLAS", "check_parcels", "embedded_table", "read_table", "stated_space"]

EMBEDDED_ATLAS = "seitzman300"
_SPHERE_RADIUS_MM = 5.0
_PLACES = ({"image", "label"}, {"x", "y", "z"})
_COLUMNS = ("name", "network", "image", "label", "x", "y", "z", "radius", "cifti_image",
            "cifti_label", "space")  # fmt: skip
_MAY_BE_EMPTY = ("image", "label", "x", "y", "z", "radius", "cifti_image", "cifti_label")


def read_table(path: Path, reference: str, columns: dict[str, str]) -> pd.DataFrame:
    """Read the table of an atlas, and give its columns our names.

    Parameters
    ----------
    path : Path
    reference : str
        The atlas as the user gave it, for errors.
    columns : dict of str to str
        Names of the table's columns, by our names, where they differ.

    Raises
    ------
    AtlasError
        If it cannot be read, or has no such column.
    """
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            quoted = file.read(1) == '"'
        theirs = {name: columns.get(name, name) for name in _COLUMNS}
        comma = path.suffix == ".csv"
        table = pd.read_csv(
            path, sep="," if comma else "\t", encoding="utf-8-sig",
            dtype={theirs["name"]: str, theirs["network"]: str},
            # "NA" may be a name, and quote marks are plain characters
            keep_default_na=False, na_values={theirs[column]: [""] for column in _MAY_BE_EMPTY},
            quoting=csv.QUOTE_MINIMAL if quoted or comma else csv.QUOTE_NONE, index_col=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise AtlasError(
            expected("Atlas", reference, f"{EMBEDDED_ATLAS} or a table of parcels, separated by "
                     "tabs (.tsv) or commas (.csv)", f"{type(error).__name__}: {error}",
                     "Check the path.")
        ) from error  # fmt: skip
    for ours, name in columns.items():
        if ours not in _COLUMNS or name not in table:
            there = [str(column) for column in table]
            odd, known = (ours, list(_COLUMNS)) if ours not in _COLUMNS else (name, there)
            near = get_close_matches(odd, known, n=1)
            raise AtlasError(
                expected("Columns of atlas", path, f"one of {', '.join(known)}", repr(odd),
                         f"Did you mean {near[0]}?" if near else "Correct the name.")
            )  # fmt: skip
    ours_of = {name: ours for ours, name in columns.items()}
    hidden = [c for c in table if c in _COLUMNS and c not in ours_of and c in columns]
    return table.drop(columns=hidden).rename(columns=ours_of)


def embedded_table() -> pd.DataFrame:
    """Return the table of Seitzman 2018, without regions that have no network."""
    from nilearn.datasets import fetch_coords_seitzman_2018

    found = fetch_coords_seitzman_2018(ordered_regions=True)
    table = pd.DataFrame(np.asarray(found.rois[["x", "y", "z"]], float), columns=["x", "y", "z"])
    table.insert(0, "network", [str(n) for n in found.networks])
    table.insert(0, "name", [f"{r}_{i}" for i, r in enumerate(table["network"])])
    table["radius"], table["space"] = _SPHERE_RADIUS_MM, MNI152
    return table[table["network"] != "unassigned"].reset_index(drop=True)


def check_parcels(table: pd.DataFrame, where: str) -> None:
    """Refuse a table without the needed columns, with an empty cell, or with a parcel twice.

    Raises
    ------
    AtlasError
    """
    columns = set(table)
    if not {"name", "network"} <= columns or not any(place <= columns for place in _PLACES):
        raise AtlasError(
            expected("Atlas", where, "columns name, network and image, label (or x, y, z, radius)",
                     ", ".join(map(str, table.columns)), "Complete the table.")
        )  # fmt: skip
    needed = [c for c in ("name", "network", "image") if c in table]
    numbers = [c for c in ("label", "x", "y", "z", "radius") if c in table]
    without = table[needed].isna() | (table[needed] == "")
    without[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce").isna()
    for column in without.columns[without.any()]:
        row = int(np.flatnonzero(without[column])[0])
        raise AtlasError(
            expected("Atlas", where, f"a {column} for each parcel",
                     f"none in row {row + 1}, {table['name'].iloc[row]!r}", "Complete the table.")
        )  # fmt: skip
    if table["name"].duplicated().any():
        twice = table["name"][table["name"].duplicated()].iloc[0]
        raise AtlasError(
            expected("Atlas", where, "each parcel once", f"{twice} twice", "Rename one.")
        )


def stated_space(table: pd.DataFrame, where: str) -> str:
    """Return the space in the column ``space``; empty without it.

    Raises
    ------
    AtlasError
        If the rows differ, or the space is unknown.
    """
    if "space" not in table:
        return ""
    values = table["space"].unique().tolist()
    if len(values) > 1 or values[0] not in (MNI152, *VERSIONS):
        raise AtlasError(
            expected("Atlas", where, f"one space for all parcels: {', '.join((MNI152, *VERSIONS))}",
                     ", ".join(map(str, values)), "Correct the column space, or leave it out.")
        )  # fmt: skip
    return str(values[0])
