"""The tokenizer protocol: a tokenizer turns the frames of a run into tokens, with fixed weights.

There are two kinds. A :class:`VolumeTokenizer` encodes each frame separately, on the canonical
grid. A :class:`SeriesTokenizer` maps the samples of a run (voxels or vertices) to *places* (parcels
or template vertices) with one sparse matrix, then processes the whole time course of each place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fmritok.progress import tracked
from fmritok.tokenizers.grid import AFFINE, SHAPE, VOXEL_MM
from fmritok.tokenizers.spaces import ParcelSpace, SampleSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.stored import StoredTokens, rebuild
from fmritok.tokenizers.vae.intensity import Intensity, VolumeStatistics

__all__ = [
    "Frames", "Series", "SeriesTokenizer", "SeriesTokens", "TokenGrid", "Tokenizer", "Tokens",
    "VolumeTokenizer",
]  # fmt: skip

#: What a tokenizer of voxels or vertices wants instead of parcels.
NO_PARCELS = "volumes or surfaces"

Frames = npt.NDArray[np.float32]
Series = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenGrid:
    """Number, position and layout of the tokens of a frame.

    Attributes
    ----------
    n_tokens, dim : int
        Tokens per frame, features per token.
    coordinates : np.ndarray of shape (n_tokens, 3), float32
        Centre of each token, mm, MNI.
    layout : dict
        Order of tokens and meaning of their features, for readers without fmritok.
    static : dict of str to np.ndarray
        Further arrays shared by all runs, by name, such as the mask of cortical pixels.
    """

    n_tokens: int
    dim: int
    coordinates: npt.NDArray[np.float32]
    layout: Mapping[str, Any] = field(default_factory=dict)
    static: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Tokenizer(ABC):
    """Base class of all tokenizers.

    The constructor is cheap and loads nothing. :meth:`setup` loads weights, once per process.

    Subclass :class:`VolumeTokenizer` or :class:`SeriesTokenizer`. Register third-party classes
    under the entry-point group ``fmritok.tokenizers``. Test them with the contract classes in
    :mod:`fmritok.testing`.
    """

    #: Name in the registry; the default name of the token group.
    name: ClassVar[str]
    #: Default store dtype: ``int8`` or ``float16``.
    default_precision: ClassVar[str] = "int8"
    #: Frames per chunk, the read unit of training.
    chunk_frames: ClassVar[int] = 16
    #: Options that do not change the tokens, such as the device. They may differ between machines.
    machine_options: ClassVar[Collection[str]] = ()
    #: File extensions that :meth:`save` writes.
    file_types: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def grid(self) -> TokenGrid:
        """Shape and position of the tokens; available before :meth:`setup`."""

    @property
    def template_space(self) -> str:
        """Space of volumes that template or atlas lie in; empty if there is none, or not stated."""
        return ""

    @property
    def run_arrays(self) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of the float32 arrays stored with every run."""
        return {}

    @property
    def decided(self) -> Mapping[str, Any]:
        """Options that the user left open and that change the tokens, as decided by this machine.

        All processes that write a group get them.
        """
        return {}

    @property
    def compute_device(self) -> str:
        """Device of torch on which tokens are turned into what is stored; after :meth:`setup`."""
        return "cpu"

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Return all settings that change the tokens. A group accepts only equal provenance."""

    def notes(self) -> dict[str, Any]:
        """Return information to record that does not change the tokens."""
        return {}

    def timing(self, n_frames: int, tr: float) -> tuple[int, float]:
        """Return the number of token frames of a run, and the seconds between them.

        The first token frame is at the time of the run's first frame.
        """
        return n_frames, tr

    def problem(self, space: SampleSpace) -> str:
        """Return why runs in a sample space cannot be encoded; empty if they can.

        Time courses of parcels have no voxels or vertices: only tokenizers of parcels take them.
        """
        return NO_PARCELS if isinstance(space, ParcelSpace) else ""

    @abstractmethod
    def setup(self) -> None:
        """Load weights and templates. Called once per process, before encoding."""

    @classmethod
    def save(cls, stored: StoredTokens, out: Path, overrides: Mapping[str, str]) -> list[Path]:
        """Decode tokens to a file, as far as possible.

        Parameters
        ----------
        stored : StoredTokens
        out : Path
            File name with one of the extensions :attr:`file_types`.
        overrides : dict of str to str
            Options that differ on this machine, such as the path of the weights.

        Returns
        -------
        list of Path
            The files written.
        """
        raise NotImplementedError


class VolumeTokenizer(Tokenizer):
    """A tokenizer that encodes each volume separately, on the canonical grid."""

    file_types: ClassVar[tuple[str, ...]] = (".nii", ".nii.gz")

    @classmethod
    def save(cls, stored: StoredTokens, out: Path, overrides: Mapping[str, str]) -> list[Path]:
        """Write decoded volumes on the canonical grid, in the intensities of the source file."""
        import nibabel as nib

        frames = cls.decode_stored(stored, overrides)
        image = nib.Nifti1Image(np.moveaxis(frames, 0, -1), AFFINE)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((VOXEL_MM, VOXEL_MM, VOXEL_MM, stored.tr))
        image.set_sform(AFFINE, code="mni")
        image.set_qform(AFFINE, code="mni")
        nib.save(image, out)
        return [out]

    @classmethod
    def decode_stored(cls, stored: StoredTokens, overrides: Mapping[str, str]) -> Frames:
        """Return decoded volumes (n_frames, 96, 96, 96), float32."""
        tokenizer = rebuild(stored, cls, overrides)
        assert isinstance(tokenizer, VolumeTokenizer)
        intensity = tokenizer.restore(stored.scalars, stored.arrays)
        n_frames = len(stored.tokens)
        frames = np.empty((n_frames, *SHAPE), np.float32)
        for i in tracked(range(n_frames), n_frames, "frames"):
            frames[i] = tokenizer.decode(stored.tokens[i : i + 1], intensity)[0]
        return frames

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

    @property
    def timing_frames(self) -> int:
        """Frames to encode together in order to tell the time of one."""
        return 1

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
        """Return why runs in a sample space cannot be encoded: they must be volumes."""
        return "" if space.is_volume else f"volumes, which {space.description} are not"

    @abstractmethod
    def fit(self, statistics: VolumeStatistics) -> Intensity:
        """Return the intensity map of one run."""

    @abstractmethod
    def restore(
        self, scalars: Mapping[str, float], arrays: Mapping[str, npt.NDArray[np.float32]]
    ) -> Intensity:
        """Rebuild the intensity map of a run from its stored scalars and arrays."""

    @abstractmethod
    def encode(self, frames: Frames, intensity: Intensity) -> Tokens:
        """Encode consecutive frames of one run.

        Parameters
        ----------
        frames : np.ndarray of shape (n_frames, 96, 96, 96), float32
            Intensities of the source file.
        intensity : Intensity
            The run's intensity map, from :meth:`fit`.

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), float32
        """

    @abstractmethod
    def decode(self, tokens: Tokens, intensity: Intensity) -> Frames:
        """Decode tokens to frames, as far as possible."""


@dataclass(frozen=True)
class SeriesTokens:
    """Tokens of one run from a :class:`SeriesTokenizer`.

    Attributes
    ----------
    blocks : iterator of np.ndarray of shape (n, n_tokens, dim), float32
        Consecutive frames of tokens.
    scalars : dict of str to float
        Numbers to store with the run, such as the number of places without signal.
    arrays : dict of str to np.ndarray, float32
        The run's :attr:`Tokenizer.run_arrays`.
    """

    blocks: Iterator[Tokens]
    scalars: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


class SeriesTokenizer(Tokenizer):
    """A tokenizer that maps samples to places, then processes whole time courses.

    A place is a row of the map: a parcel, or a vertex of a template.
    """

    @abstractmethod
    def places(self, space: SampleSpace) -> SparseMap:
        """Return the map from the samples of a run to places. Cached per sample space.

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
            The map that produced the series.
        signal : np.ndarray of shape (n_places,), float32
            Number of samples of each place that are not 0 in all frames.

        Raises
        ------
        RunError
            If the run is too short for the requested processing, or has no signal.
        """
