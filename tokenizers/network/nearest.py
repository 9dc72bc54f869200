"""Networks of parcels that have none: that of the nearest coordinate of another atlas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fmritok.errors import AtlasError, expected

__all__ = ["NearestNetworks", "nearest_networks"]

#: Largest median distance, mm. Beyond it, the centres are not in mm of MNI space.
_FAR_MM = 20.0

Floats = npt.NDArray[np.float32]


class _Known(Protocol):
    """An atlas with networks."""

    where: str
    networks: tuple[str, ...]
    network: npt.NDArray[np.int32]

    @property
    def centres(self) -> Floats:
        """Centre of each parcel, mm."""

    @property
    def sha256(self) -> str:
        """Hex digest."""


@dataclass(frozen=True, eq=False)
class NearestNetworks:
    """Where the networks of an atlas are from.

    Attributes
    ----------
    atlas, sha256 : str
        The atlas with networks.
    distance : np.ndarray of shape (n_parcels,), float32
        From each parcel's centre to the nearest centre of that atlas, mm.
    """

    atlas: str
    sha256: str
    distance: Floats

    def reordered(self, order: npt.NDArray[np.int64]) -> NearestNetworks:
        """Return it for parcels in another order."""
        return replace(self, distance=self.distance[order])


def nearest_networks(
    centres: Floats, known: _Known, where: str
) -> tuple[list[str], NearestNetworks]:
    """Give each parcel the network of the nearest parcel of another atlas.

    Parameters
    ----------
    centres : np.ndarray of shape (n_parcels, 3), float32
        mm, MNI.
    known : Atlas
        An atlas with networks.
    where : str
        Name of the atlas without networks, for errors.

    Returns
    -------
    list of str
        The network of each parcel.
    NearestNetworks

    Raises
    ------
    AtlasError
        If most parcels are far from all coordinates: they are not in mm, MNI.
    """
    from scipy.spatial import cKDTree

    distance, index = cKDTree(known.centres).query(centres)
    middle = float(np.median(distance))
    if not middle <= _FAR_MM:
        raise AtlasError(
            expected("Centres of atlas", where, f"parcels in MNI space, within {_FAR_MM:g} mm of "
                     f"those of {known.where}, whose networks they get",
                     f"a median distance of {middle:.0f} mm",
                     "Give the centres in mm, MNI, or a column network.")
        )  # fmt: skip
    networks = [known.networks[i] for i in known.network[index]]
    rounded = np.round(distance, 1).astype(np.float32)
    return networks, NearestNetworks(known.where, known.sha256, rounded)
