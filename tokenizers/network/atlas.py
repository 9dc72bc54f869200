"""Atlases: parcels of functional networks, and their voxels or vertices in the samples of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import AtlasError, expected
from fmritok.quantities import counted
from fmritok.tokenizers.network.atlas_table import (
    EMBEDDED_ATLAS,
    check_parcels,
    embedded_table,
    read_table,
    stated_space,
)
from fmritok.tokenizers.network.labels import (
    Labels,
    dlabel_on,
    label_image,
    labels_at,
    labels_on_grid,
)
from fmritok.tokenizers.network.nearest import NearestNetworks, nearest_networks
from fmritok.tokenizers.spaces import VOXEL, SurfaceSpace, VolumeSpace

__all__ = ["Atlas", "load_atlas"]

#: Largest share of empty parcels. With more, atlas and data are in different spaces.
_EMPTY_ALLOWED = 0.5


class Atlas:
    """Parcels of an atlas, sorted by network.

    Parameters
    ----------
    table : pd.DataFrame
        Columns as in :mod:`fmritok.tokenizers.network.atlas_table`. Rows are sorted by network,
        networks by their first appearance.
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
        self.space = stated_space(table, where)
        table = table.drop(columns="space", errors="ignore")  # it is not part of the digest
        check_parcels(table, where)
        first = {name: i for i, name in enumerate(dict.fromkeys(table["network"]))}
        order = np.argsort(table["network"].map(first).to_numpy(), kind="stable")
        self.table = table.iloc[order].reset_index(drop=True)
        self.networks = tuple(str(name) for name in first)
        self.network = self.table["network"].map(first).to_numpy(np.int32)
        #: Row of each parcel in the table as it was given.
        self.row = order.astype(np.int64)
        self.nearest = nearest.reordered(order) if nearest else None

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
                         f"{counted(len(unknown), 'other')}, the first is {unknown[0]}",
                         "Add their rows to the table, or set them to 0 in the image.")
            )  # fmt: skip


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
        return Atlas(embedded_table(), Path(), reference)
    path = Path(reference).expanduser()
    path = path / "atlas.tsv" if path.is_dir() else path
    table = read_table(path, reference, dict(columns or {}))
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
