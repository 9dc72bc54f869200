"""Intensity normalization of a run to [-1, 1], and its inverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.tokenizers.grid import SHAPE

if TYPE_CHECKING:
    import torch

__all__ = [
    "Intensity", "IntensityMode", "VolumeStatistics", "as_tensor", "fit_intensity",
]  # fmt: skip

IntensityMode = Literal["max", "zscore"]
#: Largest share of a run's magnitude below 0 that ``max`` may clip. Interpolation causes a little.
_MOST_BELOW = 0.05

Volumes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VolumeStatistics:
    """Statistics of one run on the canonical grid.

    Attributes
    ----------
    maximum : float
        Largest intensity of any voxel and frame.
    mean, std : np.ndarray of shape (96, 96, 96), float32, or None
        Mean and standard deviation of each voxel over time; None if not requested.
    below : float
        Share of negative intensities in the sum of all magnitudes: 0.5 for a demeaned run.
    """

    maximum: float
    mean: Volumes | None = None
    std: Volumes | None = None
    below: float = 0.0


@dataclass(frozen=True)
class Intensity:
    """Map of one run from intensities to [-1, 1].

    ``max``
        ``x = 2 v / maximum - 1``, with negative values set to 0, as in TABLeT (arXiv 2604.03619).
    ``zscore``
        ``x = clip((v - mean) / std, -clip, clip) / clip`` for each voxel. Constant voxels become 0.

    Attributes
    ----------
    mode : {"max", "zscore"}
    scalars : dict of str to float
        ``maximum``, or ``clip``.
    arrays : dict of str to np.ndarray of shape (96, 96, 96), float32
        ``voxel_mean`` and ``voxel_std`` for ``zscore``; else empty.
    mean : np.ndarray of shape (96, 96, 96), float32, or None
        Mean of the run, as the file has it; it is not stored. ``delta`` starts from it.
    """

    mode: IntensityMode
    scalars: Mapping[str, float]
    arrays: Mapping[str, Volumes]
    mean: Volumes | None = None

    @property
    def fill(self) -> float:
        """Value of the background after :meth:`forward`."""
        return -1.0 if self.mode == "max" else 0.0

    def forward(self, volumes: Volumes) -> Volumes:
        """Normalize volumes.

        Parameters
        ----------
        volumes : np.ndarray of shape (n_frames, 96, 96, 96), float32

        Returns
        -------
        np.ndarray of the same shape, float32, within [-1, 1]
        """
        normalized: Volumes = self.normalize(as_tensor(volumes)).numpy()
        return normalized

    def normalize(self, volumes: torch.Tensor) -> torch.Tensor:
        """Normalize volumes on their device, as :meth:`forward`: the same bits on every device."""
        import torch

        def number(name: str) -> torch.Tensor:  # a GPU divides by a plain number less exactly
            return volumes.new_tensor(self.scalars[name])

        if self.mode == "max":
            scaled = volumes.clamp(min=0).div_(number("maximum"))
            return scaled.mul_(2).sub_(1)
        mean, std = (
            as_tensor(self.arrays[name]).to(volumes.device) for name in ("voxel_mean", "voxel_std")
        )
        scaled = (volumes - mean).mul_(torch.where(std > 0, 1 / std, 0))
        clip = float(number("clip"))
        return scaled.clamp_(-clip, clip).div_(number("clip"))

    def inverse(self, normalized: Volumes) -> Volumes:
        """Invert :meth:`forward`. Clipped values are lost."""
        if self.mode == "max":
            return (normalized + np.float32(1)) * np.float32(self.scalars["maximum"] / 2)
        spread = self.arrays["voxel_std"] * np.float32(self.scalars["clip"])
        return normalized * spread + self.arrays["voxel_mean"]


def as_tensor(volumes: Volumes) -> torch.Tensor:
    """Return an array as a tensor, without a copy where the array can be written to."""
    import torch

    return torch.from_numpy(np.require(volumes, np.float32, "W"))


def fit_intensity(
    mode: IntensityMode, statistics: VolumeStatistics, *, clip: float = 4.0
) -> Intensity:
    """Build the intensity map of one run from its statistics.

    Parameters
    ----------
    mode : {"max", "zscore"}
    statistics : VolumeStatistics
        With ``mean`` and ``std`` for ``zscore``.
    clip : float
        Standard deviations that map to +-1 (``zscore`` only).

    Raises
    ------
    RunError
        If the mode would lose the signal: with ``max``, too many negative values; with ``zscore``,
        no voxel that varies over time.
    """
    if mode == "max":
        if statistics.maximum <= 0 or statistics.below > _MOST_BELOW:
            got = "nothing above 0 in any frame"
            if statistics.maximum > 0:
                got = f"{statistics.below:.0%} of all magnitude below 0, which would be lost"
            raise RunError(
                expected("Run", "in MNI space with intensity max",
                         "positive intensities, as before demeaning", got,
                         "Tokenize it with intensity zscore (--intensity zscore and --group NAME, "
                         "for a group of its own), or take the run before it was denoised.")
            )  # fmt: skip
        return Intensity("max", {"maximum": statistics.maximum}, {}, statistics.mean)
    assert statistics.mean is not None
    assert statistics.std is not None
    if not (statistics.std > 0).any():
        raise RunError(
            expected("Run", "in MNI space with intensity zscore", "voxels that vary over time",
                     "none", "Check the preprocessing of this run.")
        )  # fmt: skip
    return Intensity(
        "zscore",
        {"clip": clip},
        {"voxel_mean": statistics.mean, "voxel_std": statistics.std},
        statistics.mean,
    )


def run_array_shapes(mode: IntensityMode) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the arrays that a mode stores with each run."""
    return {} if mode == "max" else {"voxel_mean": SHAPE, "voxel_std": SHAPE}
