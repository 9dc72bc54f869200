"""What a tokenizer is: a fixed encoder from frames to tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from fmritok.tokenizers.intensity import Intensity, VolumeStatistics

__all__ = ["Frames", "TokenGrid", "Tokenizer", "Tokens"]

Frames = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.float32]
Source = Literal["volume", "surface", "either"]


@dataclass(frozen=True)
class TokenGrid:
    """Where the tokens of a frame lie, and what their features are.

    Attributes
    ----------
    n_tokens, dim : int
        Tokens of a frame, features of a token.
    coordinates : np.ndarray of shape (n_tokens, 3), float32
        Centre of each token, mm, MNI.
    layout : dict
        How tokens are ordered and what their features mean, for somebody who reads the store alone.
    """

    n_tokens: int
    dim: int
    coordinates: npt.NDArray[np.float32]
    layout: Mapping[str, Any] = field(default_factory=dict)


class Tokenizer(ABC):
    """A fixed encoder; built cheaply anywhere, set up once in each process that encodes.

    A third party registers a subclass under the entry-point group ``fmritok.tokenizers``; its tests
    inherit ``TokenizerContract`` from ``tests/contracts.py``.
    """

    #: Name in the registry and, by default, of the token group.
    name: ClassVar[str]
    #: What it encodes: volumes on the canonical grid, surfaces, or either.
    needs: ClassVar[Source]

    @property
    @abstractmethod
    def grid(self) -> TokenGrid:
        """Shape and place of the tokens; known before :meth:`setup`."""

    @property
    def needs_voxel_statistics(self) -> bool:
        """Whether :meth:`fit` needs each voxel's mean and standard deviation."""
        return False

    @property
    def run_arrays(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the arrays that :meth:`fit` finds and that are stored for every run."""
        return {}

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Return everything that decides what tokens mean; groups are mixed only if it is equal."""

    def notes(self) -> dict[str, Any]:
        """Return what is worth recording but does not decide what tokens mean."""
        return {}

    @abstractmethod
    def setup(self) -> None:
        """Load weights; called once per process, before :meth:`encode`."""

    @abstractmethod
    def fit(self, statistics: VolumeStatistics) -> Intensity:
        """Return the intensity map of one run."""

    @abstractmethod
    def restore(
        self, scalars: Mapping[str, float], arrays: Mapping[str, npt.NDArray[np.float32]]
    ) -> Intensity:
        """Return the intensity map of a run from what the store keeps of it."""

    @abstractmethod
    def encode(self, frames: Frames, intensity: Intensity) -> Tokens:
        """Encode consecutive frames of one run.

        Parameters
        ----------
        frames : np.ndarray of shape (n_frames, 96, 96, 96), float32
            Intensities as the file has them.
        intensity : Intensity
            The run's, from :meth:`fit`.

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), float32
        """

    @abstractmethod
    def decode(self, tokens: Tokens, intensity: Intensity) -> Frames:
        """Turn tokens back into frames, as far as that is possible."""
