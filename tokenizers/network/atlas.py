"""Atlases: tables of parcels with their networks and label images.

An atlas is a tab-separated table with one row per parcel. Label images lie in the same folder::

    name                 network  image                label  cifti_image        cifti_label
    7Networks_LH_Vis_1   Vis      Schaefer.nii.gz      51     Schaefer.dlabel.nii 51
    HIP-rh               Tian     Schaefer.nii.gz      1
    Buckner_1            Buckner  Buckner.nii.gz       1

``image`` is a label image in MNI space, for volumes and for the voxels of CIFTI files.
``cifti_image`` is a ``dlabel.nii``, for all grayordinates of CIFTI files. It takes precedence.
Instead of ``image`` and ``label``, a table may have ``x``, ``y``, ``z`` and ``radius`` in mm.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import AtlasError, expected
from fmritok.regular import check_regular
from fmritok.tokenizers.spaces import LEFT, RIGHT, VOXEL, SampleSpace, SurfaceSpace, VolumeSpace

__all__ = ["EMBEDDED_ATLAS", "Atlas", "load_atlas"]

EMBEDDED_ATLAS = "seitzman300"
_SPHERE_RADIUS_MM = 5.0
_PLACES = ({"image", "label"}, {"x", "y", "z", "radius"})
_MAY_BE_EMPTY = ("image", "label", "x", "y", "z", "radius", "cifti_image", "cifti_label")
#: Largest share of empty parcels. With more, atlas and data are in different spaces.
_EMPTY_ALLOWED = 0.5

Labels = npt.NDArray[np.int32]


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

    Raises
    ------
    AtlasError
        If a column or a value is missing, or a parcel name is repeated. Methods also raise it if
        labels of image and table differ.
    """

    def __init__(self, table: pd.DataFrame, folder: Path, where: str) -> None:
        self.where, self._folder = where, folder
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

    def members(self, space: SampleSpace) -> list[npt.NDArray[np.int64]]:
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
            ijk = np.indices(space.shape).reshape(3, -1, order="F").T
            mm = ijk @ space.affine[:3, :3].T + space.affine[:3, 3]
            return self._in_spheres(mm, np.arange(space.n_samples))
        members: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * len(self)
        for rows, labels, affine in self._images():
            labelled = _nearest(labels, affine, space).ravel(order="F")
            self._gather(members, rows, "label", labelled, np.arange(space.n_samples))
        return members

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
            labels = _dlabel_on(self._folder / name, space)
            self._gather(members, rows, "cifti_label", labels, np.arange(space.n_samples))
        if "image" in self.table and len(voxels):
            for rows, labels, affine in self._images():
                rows = rows[by_cifti.to_numpy()[rows] == ""]
                found = _nearest_at(labels, affine, space.mm[voxels].astype(np.float64))
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
            labels, affine = _label_image(self._folder / str(name))
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


def load_atlas(reference: str = EMBEDDED_ATLAS) -> Atlas:
    """Load an atlas.

    Parameters
    ----------
    reference : str
        ``seitzman300`` (shipped with nilearn: spheres of 5 mm in 13 networks), or the path of a
        table.

    Raises
    ------
    AtlasError
        If the atlas cannot be read.
    """
    if reference == EMBEDDED_ATLAS:
        return Atlas(_seitzman(), Path(), reference)
    path = Path(reference).expanduser()
    path = path / "atlas.tsv" if path.is_dir() else path
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            quoted = file.read(1) == '"'
        table = pd.read_csv(
            path, sep="\t", dtype={"name": str, "network": str}, encoding="utf-8-sig",
            # "NA" may be a name, and quote marks are plain characters
            keep_default_na=False, na_values={column: [""] for column in _MAY_BE_EMPTY},
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, index_col=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise AtlasError(
            expected("Atlas", reference, f"{EMBEDDED_ATLAS} or a tab-separated table of parcels",
                     f"{type(error).__name__}: {error}", "Check the path.")
        ) from error  # fmt: skip
    return Atlas(table, path.parent, str(path))


def _seitzman() -> pd.DataFrame:
    """Return the table of Seitzman 2018, without regions that have no network."""
    from nilearn.datasets import fetch_coords_seitzman_2018

    found = fetch_coords_seitzman_2018(ordered_regions=True)
    table = pd.DataFrame(np.asarray(found.rois[["x", "y", "z"]], float), columns=["x", "y", "z"])
    table.insert(0, "network", [str(n) for n in found.networks])
    table.insert(0, "name", [f"{r}_{i}" for i, r in enumerate(table["network"])])
    table["radius"] = _SPHERE_RADIUS_MM
    return table[table["network"] != "unassigned"].reset_index(drop=True)


@lru_cache(maxsize=4)
def _label_image(path: Path) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Read a label image as int32 and its affine, from any stored type."""
    import nibabel as nib

    try:
        check_regular(path)
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel raises many kinds
        raise AtlasError(
            expected("Label image", path, "a NIfTI file", f"{type(error).__name__}: {error}",
                     "Check the path, or copy the file again.")
        ) from error  # fmt: skip
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    labels = np.rint(values).astype(np.int32)
    if values.ndim != 3 or np.abs(values - labels).max() > 1e-3:
        raise AtlasError(
            expected("Label image", path, "three dimensions of whole numbers",
                     f"shape {values.shape}" if values.ndim != 3 else "other numbers",
                     "Give a label image, not a probability map or a time series.")
        )  # fmt: skip
    return labels, np.asarray(image.affine, np.float64)


def _nearest(labels: Labels, affine: npt.NDArray[np.float64], space: VolumeSpace) -> Labels:
    """Resample labels to a grid by nearest neighbour."""
    if labels.shape == space.shape and np.allclose(affine, space.affine, atol=1e-4):
        return labels
    ijk = np.indices(space.shape).reshape(3, -1).T
    mm = ijk @ space.affine[:3, :3].T + space.affine[:3, 3]
    return _nearest_at(labels, affine, mm).reshape(space.shape)


def _nearest_at(
    labels: Labels, affine: npt.NDArray[np.float64], mm: npt.NDArray[np.float64]
) -> Labels:
    inverse = np.linalg.inv(affine)
    # Round halves up, as scipy does with order 0. Halves are frequent on 3 mm grids.
    voxel = np.floor(mm @ inverse[:3, :3].T + inverse[:3, 3] + 0.5 + 1e-9).astype(np.int64)
    inside = ((voxel >= 0) & (voxel < labels.shape)).all(axis=1)
    found = np.zeros(len(mm), np.int32)
    found[inside] = labels[tuple(voxel[inside].T)]
    return found


def _dlabel_on(path: Path, space: SurfaceSpace) -> Labels:
    """Read the labels of a ``dlabel.nii`` for the grayordinates of a run."""
    import nibabel as nib

    try:
        check_regular(path)
        image: Any = nib.load(path)
        labels = np.asarray(image.dataobj)[0].astype(np.int32)
        theirs = SurfaceSpace.of_cifti(image.header.get_axis(1))
    except Exception as error:  # nibabel raises many kinds
        raise AtlasError(
            expected("Label file", path, "a CIFTI dlabel", f"{type(error).__name__}: {error}",
                     "Check the path, or copy the file again.")
        ) from error  # fmt: skip
    if theirs.n_vertices != space.n_vertices:
        raise AtlasError(
            expected("Label file", path, f"labels of {space.description}", theirs.description,
                     "Take the atlas in the space of the data.")
        )  # fmt: skip
    found = np.zeros(space.n_samples, np.int32)
    for part in (LEFT, RIGHT):
        column = theirs.columns(part)
        mine = np.flatnonzero(space.part == part)
        at = column[space.vertex[mine]]
        found[mine] = np.where(at >= 0, labels[at], 0)
    mine = np.flatnonzero(space.part == VOXEL)
    known = {
        tuple(mm): label
        for mm, label, part in zip(
            np.round(theirs.mm, 1).tolist(), labels.tolist(), theirs.part.tolist(), strict=True
        )
        if part == VOXEL
    }
    found[mine] = [known.get(tuple(mm), 0) for mm in np.round(space.mm[mine], 1).tolist()]
    return found
