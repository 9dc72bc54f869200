"""Regroup stored tokens for the model: cells in space, patches in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = ["PatchGrid", "TokenLayout", "default_patch"]

_FLATMAP_PATCH = 4
_NETWORK_PATCH = 20


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Shape and geometry of a group's tokens.

    Attributes
    ----------
    n_tokens, dim : int
        Stored tokens of a frame, and their features.
    patch : int
        Frames of a patch.
    pixel_mask : np.ndarray of shape (n_tokens, dim), bool, optional
        Features that exist. The others are always 0 and enter no loss.
    network : np.ndarray of shape (n_tokens,), int, optional
        Network of each parcel: the model then has one cell per network.
    coordinates : np.ndarray of shape (n_tokens, 3), float, optional
        Centre of each stored token in millimetres (RAS).
    window : int, optional
        Most frames of a window; learned positions need it.
    rectangle : int, optional
        Cells of a flat map's whole grid, those without cortex too.
    """

    n_tokens: int
    dim: int
    patch: int = 1
    pixel_mask: npt.NDArray[np.bool_] | None = None
    network: npt.NDArray[np.integer[Any]] | None = None
    coordinates: npt.NDArray[np.floating[Any]] | None = None
    window: int | None = None
    rectangle: int | None = None

    @property
    def kind(self) -> Literal["plain", "flatmap", "network"]:
        """Kind of the input embedding."""
        if self.network is not None:
            return "network"
        return "plain" if self.pixel_mask is None else "flatmap"

    @property
    def has_mean(self) -> bool:
        """Whether the run mean carries information: flat maps and parcels are z-scored in time."""
        return self.kind == "plain"

    @property
    def sizes(self) -> list[int]:
        """Parcels of each network, in the order of the networks."""
        return (
            [] if self.network is None else np.unique(self.network, return_counts=True)[1].tolist()
        )

    @classmethod
    def of(
        cls, group: TokenGroup | MixedGroup | SavedGroup, *, patch: int | None, window: int
    ) -> TokenLayout:
        """Read a group's layout from its static arrays.

        Parameters
        ----------
        group : TokenGroup, MixedGroup or SavedGroup
        patch : int, optional
            Frames of a patch; None for :func:`default_patch`.
        window : int
            Frames of a window.

        Raises
        ------
        ConfigError
            If a group of parcels has more than one feature, or a patch is longer than a window.
        """
        pixel_mask, network = _array(group, "pixel_mask"), _array(group, "network")
        coordinates = _array(group, "coordinates")
        if network is not None and group.dim != 1:
            raise ConfigError(
                expected("Token group", group.name, "one feature for each parcel", group.dim,
                         "Choose another group with --group NAME.")
            )  # fmt: skip
        plain = cls(group.n_tokens, group.dim, 1, pixel_mask, network)
        frames = default_patch(plain, window) if patch is None else patch
        if frames > window:
            raise ConfigError(
                expected("Option", "model.patch", f"at most data.window = {window}", frames,
                         "Change it with --set model.patch=VALUE.")
            )  # fmt: skip
        return cls(
            group.n_tokens, group.dim, frames, pixel_mask, network, coordinates, window,
            _rectangle(group.provenance),
        )  # fmt: skip


def default_patch(layout: TokenLayout, window: int) -> int:
    """Return the default frames of a patch: 4 for flat maps, 20 for parcels, otherwise 1.

    At most a quarter of the window: masking needs several patches.
    """
    if layout.kind == "plain":
        return 1
    most = _NETWORK_PATCH if layout.kind == "network" else _FLATMAP_PATCH
    return max(1, min(most, window // 4))


class PatchGrid(nn.Module):
    """Regroups stored tokens into cells and patches; has no weights.

    The parcels of a network are the features of its cell, in their order, padded with zeros to the
    size of the largest network.

    Attributes
    ----------
    known : torch.Tensor of shape (C, E), bool
        Features that exist.
    complete : bool
        Whether all features exist.
    coordinates : torch.Tensor of shape (C, 3), float32
        Centre of each cell in millimetres (RAS); for a network the mean of its parcels; 0 if
        unknown.
    n_cells, n_features : int
        C and F.
    """

    known: Tensor
    members: Tensor
    coordinates: Tensor

    def __init__(self, layout: TokenLayout) -> None:
        super().__init__()
        self.layout = layout
        if layout.network is not None:
            largest = max(layout.sizes)
            members = np.full((len(layout.sizes), largest), layout.n_tokens)
            for row, network in zip(members, np.unique(layout.network), strict=True):
                parcels = np.flatnonzero(layout.network == network)
                row[: len(parcels)] = parcels
            self.register_buffer("members", torch.from_numpy(members), persistent=False)
            known = members < layout.n_tokens
        elif layout.pixel_mask is not None:
            known = layout.pixel_mask.astype(bool)
        else:
            known = np.ones((layout.n_tokens, layout.dim), dtype=bool)
        self.register_buffer("known", torch.from_numpy(known), persistent=False)
        self.complete = bool(known.all())
        self.n_cells, per_frame = known.shape
        centres = torch.from_numpy(_cell_centres(layout))
        self.register_buffer("coordinates", centres, persistent=False)
        self.n_features = layout.patch * per_frame

    def cells(self, x_BTSD: Tensor) -> Tensor:
        """Regroup stored tokens into cells [B T C E]."""
        if self.layout.network is None:
            return x_BTSD
        padded: Tensor = F.pad(x_BTSD[..., 0], (0, 1))
        return padded[..., self.members]

    def fold(self, x_BTSD: Tensor) -> Tensor:
        """Regroup frames into patches [B U C F]; the last one is padded with zeros.

        The frame varies slowest among the features of a patch.
        """
        x_BTCE, frames = self.cells(x_BTSD), self.layout.patch
        if frames == 1:
            return x_BTCE
        x_BTCE = F.pad(x_BTCE, (0, 0, 0, 0, 0, -x_BTCE.shape[1] % frames))
        return torch.unflatten(x_BTCE, 1, (-1, frames)).transpose(2, 3).flatten(3)

    def positions(self, times_BN: Tensor, cells_BN: Tensor) -> Tensor:
        """Return positions: seconds, and millimetres of the cell [B N 4]."""
        return torch.cat([times_BN[..., None], self.coordinates[cells_BN]], dim=-1)

    def fold_frames(self, x_BT: Tensor) -> Tensor:
        """Regroup one number per frame into patches [B U P], padded with zeros."""
        frames = self.layout.patch
        return torch.unflatten(F.pad(x_BT, (0, -x_BT.shape[1] % frames)), 1, (-1, frames))


def _cell_centres(layout: TokenLayout) -> npt.NDArray[np.float32]:
    n_cells = len(layout.sizes) or layout.n_tokens
    if layout.coordinates is None:
        return np.zeros((n_cells, 3), np.float32)
    centres = np.asarray(layout.coordinates, np.float32)
    if layout.network is None:
        return centres
    networks = np.unique(layout.network)
    return np.stack([centres[layout.network == network].mean(0) for network in networks])


def _rectangle(provenance: Mapping[str, Any]) -> int | None:
    layout = provenance.get("layout") or {}
    if "image" not in layout or "patch" not in layout:
        return None
    rows, columns = layout["image"]
    return int(rows) * int(columns) // int(layout["patch"]) ** 2


def _array(group: TokenGroup | MixedGroup | SavedGroup, name: str) -> npt.NDArray[Any] | None:
    try:
        return group.array(name)
    except KeyError:
        return None
