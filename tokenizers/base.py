"""What a tokenizer is: a fixed encoder from a run's frames to tokens.

There are two kinds. A :class:`VolumeTokenizer` encodes every frame by itself, on the canonical
grid. A :class:`SeriesTokenizer` maps samples (voxels, vertices) to fewer or other places with one
sparse matrix, block by block, and then works on the whole time courses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fmritok.tokenizers.grid import AFFINE, VOXEL_MM
from fmritok.tokenizers.spaces import SampleSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.stored import StoredTokens, rebuild
from fmritok.tokenizers.vae.intensity import Intensity, VolumeStatistics

__all__ = [
    "Frames", "Series", "SeriesTokenizer", "SeriesTokens", "TokenGrid", "Tokenizer", "Tokens",
    "VolumeTokenizer",
]  # fmt: skip

Frames = npt.NDArray[np.float32]
Series = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.float32]


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
    static : dict of str to np.ndarray
        Further arrays that a reader needs once, by name, such as which pixels are cortex.
    """

    n_tokens: int
    dim: int
    coordinates: npt.NDArray[np.float32]
    layout: Mapping[str, Any] = field(default_factory=dict)
    static: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Tokenizer(ABC):
    """A fixed encoder; built cheaply anywhere, set up once in each process that encodes.

    Subclass :class:`VolumeTokenizer` or :class:`SeriesTokenizer`. A third party registers its class
    under the entry-point group ``fmritok.tokenizers``; its tests inherit the contract of its kind
    from :mod:`fmritok.testing`.
    """

    #: Name in the registry and, by default, of the token group.
    name: ClassVar[str]
    #: How tokens are stored unless the user says otherwise: ``int8`` or ``float16``.
    default_precision: ClassVar[str] = "int8"
    #: Frames of a chunk, the read unit of training.
    chunk_frames: ClassVar[int] = 16
    #: Options that say how to compute, not what; another machine may want others.
    machine_options: ClassVar[Collection[str]] = ()
    #: Endings of the files that :meth:`save` writes.
    file_types: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def grid(self) -> TokenGrid:
        """Shape and place of the tokens; known before :meth:`setup`."""

    @property
    def run_arrays(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the float32 arrays that are stored for every run besides its tokens."""
        return {}

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Return everything that decides what tokens mean; groups are mixed only if it is equal."""

    def notes(self) -> dict[str, Any]:
        """Return what is worth recording but does not decide what tokens mean."""
        return {}

    def timing(self, n_frames: int, tr: float) -> tuple[int, float]:
        """Return how many frames of tokens a run gives, and the seconds between them.

        The first frame of tokens is at the time of the run's first frame.
        """
        return n_frames, tr

    def problem(self, space: SampleSpace) -> str:
        """Say why runs of a kind cannot be encoded; empty if they can."""
        return ""

    @abstractmethod
    def setup(self) -> None:
        """Load weights and templates; called once per process, before anything is encoded."""

    @classmethod
    def save(cls, stored: StoredTokens, out: Path, places: Mapping[str, str]) -> list[Path]:
        """Turn tokens back into a file for people, as far as that is possible.

        Parameters
        ----------
        stored : StoredTokens
        out : Path
            Ends in one of :attr:`file_types`.
        places : dict of str to str
            Options that are different on this machine, such as where the weights lie.

        Returns
        -------
        list of Path
            The files written.
        """
        raise NotImplementedError


class VolumeTokenizer(Tokenizer):
    """Encodes volumes on the canonical grid, each frame by itself."""

    file_types: ClassVar[tuple[str, ...]] = (".nii", ".nii.gz")

    @classmethod
    def save(cls, stored: StoredTokens, out: Path, places: Mapping[str, str]) -> list[Path]:
        """Write decoded volumes on the canonical grid, in the file's intensities."""
        import nibabel as nib

        frames = cls.decode_stored(stored, places)
        image = nib.Nifti1Image(np.moveaxis(frames, 0, -1), AFFINE)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((VOXEL_MM, VOXEL_MM, VOXEL_MM, stored.tr))
        image.set_sform(AFFINE, code="mni")
        image.set_qform(AFFINE, code="mni")
        nib.save(image, out)
        return [out]

    @classmethod
    def decode_stored(cls, stored: StoredTokens, places: Mapping[str, str]) -> Frames:
        """Return decoded volumes (n_frames, 96, 96, 96), float32."""
        tokenizer = rebuild(stored, cls, places)
        assert isinstance(tokenizer, VolumeTokenizer)
        return tokenizer.decode(stored.tokens, tokenizer.restore(stored.scalars, stored.arrays))

    @property
    def needs_voxel_statistics(self) -> bool:
        """Whether :meth:`fit` needs each voxel's mean and standard deviation."""
        return False

    @property
    def is_approximate(self) -> bool:
        """Whether the arithmetic has an error that is worth measuring and recording."""
        return False

    @property
    def block_frames(self) -> int:
        """Frames that :meth:`encode` gets at a time; the last block of a run has fewer."""
        return 8

    def measure_error(self, frames: Frames, intensity: Intensity) -> dict[str, Any]:
        """Measure the error of time courses on frames spread over a run; nothing if exact.

        Returns
        -------
        dict
            ``arithmetic``, its name; ``median`` and ``percentile_95`` of the relative error over
            features; anything else worth a note.
        """
        return {}

    def problem(self, space: SampleSpace) -> str:
        """Say why runs of a kind cannot be encoded: only volumes can."""
        return "" if space.is_volume else f"volumes, which {space.description} are not"

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


@dataclass(frozen=True)
class SeriesTokens:
    """What a :class:`SeriesTokenizer` makes of one run.

    Attributes
    ----------
    blocks : iterator of np.ndarray of shape (n, n_tokens, dim), float32
        Consecutive frames of tokens.
    scalars : dict of str to float
        Numbers worth keeping with the run, such as how many places had no signal.
    arrays : dict of str to np.ndarray, float32
        The run's :attr:`Tokenizer.run_arrays`.
    """

    blocks: Iterator[Tokens]
    scalars: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


class SeriesTokenizer(Tokenizer):
    """Maps samples to places with one sparse matrix, then works on whole time courses."""

    @abstractmethod
    def places(self, space: SampleSpace) -> SparseMap:
        """Return the map from a run's samples to the places whose time courses are wanted.

        Built once per space and process.

        Raises
        ------
        RunError
            If the samples do not fit the template or atlas.
        """

    @abstractmethod
    def encode_series(
        self, series: Series, tr: float, places: SparseMap, signal: npt.NDArray[np.float32]
    ) -> SeriesTokens:
        """Encode one run.

        Parameters
        ----------
        series : np.ndarray of shape (n_places, n_frames), float32
            May be overwritten.
        tr : float
            Seconds between frames.
        places : SparseMap
            The map that gave the series.
        signal : np.ndarray of shape (n_places,), float32
            How many of each place's samples are not always 0 in the run.

        Raises
        ------
        RunError
            If the run is too short for the processing asked for, or has no signal at all.
        """
