"""Atlases: tables of parcels with their networks and label images.

An atlas is a tab-separated table with one row per parcel. Label images lie in the same folder::

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
import hashlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import AtlasError, expected
from fmritok.regular import check_regular
from fmritok.tokenizers.mni import MNI152, VERSIONS
from fmritok.tokenizers.network.labels import (
    Labels,
    dlabel_on,
    label_image,
    labels_at,
    labels_on_grid,
)
from fmritok.tokenizers.network.nearest import NearestNetworks, nearest_networks
from fmritok.tokenizers.spaces import VOXEL, SurfaceSpace, VolumeSpace

__all__ = ["EMBEDDED_ATLAS", "Atlas", "load_atlas"]

EMBEDDED_ATLAS = "seitzman300"
_SPHERE_RADIUS_MM = 5.0
_PLACES = ({"image", "label"}, {"x", "y", "z"})
_COLUMNS = ("name", "network", "image", "label", "x", "y", "z", "radius", "cifti_image",
            "cifti_label", "space")  # fmt: skip
_MAY_BE_EMPTY = ("image", "label", "x", "y", "z", "radius", "cifti_image", "cifti_label")
#: Largest share of empty parcels. With more, atlas and data are in different spaces.
_EMPTY_ALLOWED = 0.5


class Atlas:
    """Parcels of an atlas, sorted by network.

    Parameters
    ----------
    table : pd.DataFrame
        Columns as in the module's description. Rows are sorted by network, networks by their first
        appearance.
    folder : Path
        Folder of the label images.
    where : str
        Name of the atlas in errors.
    nearest : NearestNetworks, optional
        Where the networks are from, if the table had none; in the order of the table.

    Raises
    ------
    AtlasError
        If a column or a value is missing, or a parcel name is repeated. Methods also raise it if
        labels of image and table differ.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        folder: Path,
        where: str,
        nearest: NearestNetworks | None = None,
    ) -> None:
        self.where, self._folder = where, folder
        #: Space of images and coordinates; empty if the table does not say.
        self.space = _stated_space(table, where)
        table = table.drop(columns="space", errors="ignore")  # it is not part of the digest
        if not any(columns <= set(table) for columns in _PLACES) or not {"name", "network"} <= set(
            table
        ):
            raise AtlasError(
                expected("Atlas", where, "columns name, network and image, label (or x, y, z, "
                         "radius)", ", ".join(map(str, table.columns)), "Complete the table.")
            )  # fmt: skip
        self._check_complete(table)
        if table["name"].duplicated().any():
            twice = table["name"][table["name"].duplicated()].iloc[0]
            raise AtlasError(
                expected("Atlas", where, "each parcel once", f"{twice} twice", "Rename one.")
            )
        first = {name: i for i, name in enumerate(dict.fromkeys(table["network"]))}
        order = np.argsort(table["network"].map(first).to_numpy(), kind="stable")
        self.table = table.iloc[order].reset_index(drop=True)
        self.networks = tuple(str(name) for name in first)
        self.network = self.table["network"].map(first).to_numpy(np.int32)
        #: Row of each parcel in the table as it was given.
        self.row = order.astype(np.int64)
        self.nearest = nearest.reordered(order) if nearest else None

    def _check_complete(self, table: pd.DataFrame) -> None:
        needed = [c for c in ("name", "network", "image") if c in table]
        numbers = [c for c in ("label", "x", "y", "z", "radius") if c in table]
        without = table[needed].isna() | (table[needed] == "")
        without[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce").isna()
        for column in without.columns[without.any()]:
            row = int(np.flatnonzero(without[column])[0])
            raise AtlasError(
                expected("Atlas", self.where, f"a {column} for each parcel",
                         f"none in row {row + 1}, {table['name'].iloc[row]!r}",
                         "Complete the table.")
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the table and of all image files."""
        digest = hashlib.sha256(self.table.to_csv(index=False).encode())
        for column in ("image", "cifti_image"):
            for name in sorted(set(self.table.get(column, pd.Series(dtype=str)).dropna())):
                if name:
                    digest.update((self._folder / name).read_bytes())
        return digest.hexdigest()

    @cached_property
    def centres(self) -> npt.NDArray[np.float32]:
        """Centre of mass of each parcel, shape (n_parcels, 3), mm."""
        if "image" not in self.table:
            return self.table[["x", "y", "z"]].to_numpy(np.float32)
        centres = np.full((len(self), 3), np.nan, np.float32)
        for rows, labels, affine in self._images():
            ijk = np.argwhere(labels > 0)
            value = labels[tuple(ijk.T)]
            mm = ijk @ affine[:3, :3].T + affine[:3, 3]
            count = np.bincount(value)
            sums = np.stack([np.bincount(value, x) for x in mm.T], axis=1)
            label = self.table["label"].to_numpy(np.int64)[rows]
            centres[rows] = sums[label] / count[label, None]
        return centres

    def members(self, space: VolumeSpace | SurfaceSpace) -> list[npt.NDArray[np.int64]]:
        """Return the sample indices of every parcel, ascending.

        Raises
        ------
        AtlasError
            If the atlas has no labels for this sample space, or more than half of its parcels are
            empty.
        """
        if isinstance(space, VolumeSpace):
            members = self._in_volume(space)
        else:
            members = self._in_grayordinates(space)
        empty = sum(not len(m) for m in members)
        if empty > _EMPTY_ALLOWED * len(self):
            raise AtlasError(
                expected("Atlas", self.where, f"parcels in {space.description}",
                         f"{empty} of {len(self)} without a single sample",
                         "Atlas and data must lie in the same space.")
            )  # fmt: skip
        return members

    def _in_volume(self, space: VolumeSpace) -> list[npt.NDArray[np.int64]]:
        if "image" not in self.table:
            self._check_radius(space)
            ijk = np.indices(space.shape).reshape(3, -1, order="F").T
            mm = ijk @ space.affine[:3, :3].T + space.affine[:3, 3]
            return self._in_spheres(mm, np.arange(space.n_samples))
        members: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * len(self)
        for rows, labels, affine in self._images():
            labelled = labels_on_grid(labels, affine, space).ravel(order="F")
            self._gather(members, rows, "label", labelled, np.arange(space.n_samples))
        return members

    def _check_radius(self, space: VolumeSpace) -> None:
        if "radius" not in self.table:
            raise AtlasError(
                expected("Atlas", self.where, f"a column radius (mm), to label {space.description}",
                         "none", "Add it.")
            )  # fmt: skip

    def _in_grayordinates(self, space: SurfaceSpace) -> list[npt.NDArray[np.int64]]:
        members: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * len(self)
        voxels = np.flatnonzero(space.part == VOXEL)
        if "cifti_image" not in self.table:
            raise AtlasError(
                expected("Atlas", self.where, f"a column cifti_image, to label {space.description}",
                         "none", "Add it, or take the runs' volumes with --input volume.")
            )  # fmt: skip
        by_cifti = self.table["cifti_image"].fillna("").astype(str)
        for name in [n for n in by_cifti.unique() if n]:
            rows = np.flatnonzero(by_cifti == name)
            labels = dlabel_on(self._folder / name, space)
            self._gather(members, rows, "cifti_label", labels, np.arange(space.n_samples))
        if "image" in self.table and len(voxels):
            for rows, labels, affine in self._images():
                rows = rows[by_cifti.to_numpy()[rows] == ""]
                found = labels_at(labels, affine, space.mm[voxels].astype(np.float64))
                self._gather(members, rows, "label", found, voxels)
        return members

    def _gather(
        self,
        members: list[npt.NDArray[np.int64]],
        rows: npt.NDArray[np.int64],
        column: str,
        labels: Labels,
        samples: npt.NDArray[np.int64],
    ) -> None:
        """Collect the sample indices of each label in ``members``, in place."""
        order = np.argsort(labels, kind="stable")
        ranked = labels[order]
        wanted = self.table[column].to_numpy(np.float64)[rows].astype(np.int64)
        low, high = np.searchsorted(ranked, wanted), np.searchsorted(ranked, wanted, side="right")
        for row, first, end in zip(rows, low, high, strict=True):
            members[row] = samples[order[first:end]]

    def _in_spheres(
        self, mm: npt.NDArray[np.float64], samples: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[np.int64]]:
        from scipy.spatial import cKDTree

        tree = cKDTree(mm)
        centres = self.table[["x", "y", "z"]].to_numpy(np.float64)
        found = tree.query_ball_point(centres, self.table["radius"].to_numpy(np.float64))
        return [samples[np.sort(np.asarray(f, np.int64))] for f in found]

    def _images(self) -> Iterator[tuple[npt.NDArray[np.int64], Labels, npt.NDArray[np.float64]]]:
        """Yield table rows, labels and affine of each label image, checked against the table."""
        for name in self.table["image"].unique():
            rows = np.flatnonzero(self.table["image"] == name)
            labels, affine = label_image(self._folder / str(name))
            listed = self.table["label"].to_numpy(np.int64)[rows]
            self._check(str(name), labels, listed)
            yield rows, labels, affine

    def _check(self, image: str, labels: Labels, listed: npt.NDArray[np.int64]) -> None:
        present = np.unique(labels[labels > 0])
        absent, unknown = np.setdiff1d(listed, present), np.setdiff1d(present, listed)
        if len(absent):
            raise AtlasError(
                expected(f"Labels of atlas {self.where}", f"in {image}", "every label of the table",
                         f"{len(absent)} that no voxel has, the first is {absent[0]}",
                         "Table and image belong to different atlases.")
            )  # fmt: skip
        if len(unknown):
            raise AtlasError(
                expected(f"Labels of atlas {self.where}", f"in {image}", "only labels of the table",
                         f"{len(unknown)} others, the first is {unknown[0]}",
                         "Add their rows to the table, or set them to 0 in the image.")
            )  # fmt: skip


def _stated_space(table: pd.DataFrame, where: str) -> str:
    if "space" not in table:
        return ""
    values = table["space"].unique().tolist()
    if len(values) > 1 or values[0] not in (MNI152, *VERSIONS):
        raise AtlasError(
            expected("Atlas", where, f"one space for all parcels: {', '.join((MNI152, *VERSIONS))}",
                     ", ".join(map(str, values)), "Correct the column space, or leave it out.")
        )  # fmt: skip
    return str(values[0])


def load_atlas(
    reference: str = EMBEDDED_ATLAS,
    columns: Mapping[str, str] | None = None,
    networks_from: str = EMBEDDED_ATLAS,
) -> Atlas:
    """Load an atlas.

    Parameters
    ----------
    reference : str
        ``seitzman300`` (shipped with nilearn: spheres of 5 mm in 13 networks), or the path of a
        table.
    columns : dict of str to str, optional
        Names of the table's columns, where they are others than ``name``, ``network``, ``x``, ...
    networks_from : str
        Atlas whose nearest coordinate gives each parcel its network, if the table has no networks.

    Raises
    ------
    AtlasError
        If the atlas cannot be read, or its parcels are far from those of ``networks_from``.
    """
    if reference == EMBEDDED_ATLAS:
        return Atlas(_seitzman(), Path(), reference)
    path = Path(reference).expanduser()
    path = path / "atlas.tsv" if path.is_dir() else path
    table = _read_table(path, reference, dict(columns or {}))
    if "network" in table:
        return Atlas(table, path.parent, str(path))
    near_name = next((name for name in map(str, table) if "network" in name.lower()), None)
    if near_name is not None:
        raise AtlasError(
            expected("Atlas", path, "a column network", repr(near_name),
                     f"Rename it, or say columns = {{network: {near_name}}}.")
        )  # fmt: skip
    known = load_atlas(networks_from)
    centres = Atlas(table.assign(network="none"), path.parent, str(path)).centres
    networks, nearest = nearest_networks(centres, known, str(path))
    return Atlas(table.assign(network=networks), path.parent, str(path), nearest)


def _read_table(path: Path, reference: str, columns: dict[str, str]) -> pd.DataFrame:
    """Read the table of an atlas as it is written, and give its columns our names."""
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


def _seitzman() -> pd.DataFrame:
    """Return the table of Seitzman 2018, without regions that have no network."""
    from nilearn.datasets import fetch_coords_seitzman_2018

    found = fetch_coords_seitzman_2018(ordered_regions=True)
    table = pd.DataFrame(np.asarray(found.rois[["x", "y", "z"]], float), columns=["x", "y", "z"])
    table.insert(0, "network", [str(n) for n in found.networks])
    table.insert(0, "name", [f"{r}_{i}" for i, r in enumerate(table["network"])])
    table["radius"], table["space"] = _SPHERE_RADIUS_MM, MNI152
    return table[table["network"] != "unassigned"].reset_index(drop=True)
