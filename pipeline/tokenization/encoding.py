"""Encoding of one run with one tokenizer: blocks of samples in, tokens out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.opening import RunSource
from fmritok.pipeline.sources.scratch import ScratchArray
from fmritok.pipeline.sources.volumes import RunVolumes, scaled_product
from fmritok.tokenizers.base import SeriesTokenizer, VolumeTokenizer
from fmritok.tokenizers.spaces import ParcelSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["RunTokens", "SeriesEncoding", "VolumeEncoding"]

#: Range of a time course, as a share of its largest value, that is more than rounding.
_LEAST_RANGE = 1e-6


@dataclass(frozen=True)
class RunTokens:
    """Tokens of one run, with its scalars and arrays.

    Attributes
    ----------
    tokens : ScratchArray of shape (n_frames, n_tokens, dim), float32
    scalars : dict of str to float
    arrays : dict of str to np.ndarray
    description : str
        Description of the map from the samples of the file to those of the tokenizer.
    device : str
        Device of torch on which the tokens are turned into what is stored.
    """

    tokens: ScratchArray
    scalars: Mapping[str, float]
    arrays: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    description: str = ""
    device: str = "cpu"


class VolumeEncoding:
    """Encoding with a :class:`VolumeTokenizer`. Several encodings may share the volumes of a run.

    Parameters
    ----------
    tokenizer : VolumeTokenizer
    volumes : RunVolumes
        The caller adds the blocks of the run.
    scratch : Path, optional
    """

    def __init__(
        self, tokenizer: VolumeTokenizer, volumes: RunVolumes, scratch: Path | None
    ) -> None:
        self._tokenizer, self._scratch = tokenizer, scratch
        self.consumer = volumes

    def finish(self, tell: Callable[[int], None] = lambda _: None) -> RunTokens:
        """Encode the run, once all of its blocks were added; tell the frames of each block."""
        volumes, grid = self.consumer, self._tokenizer.grid
        intensity = self._tokenizer.fit(volumes.statistics)
        tokens = ScratchArray(
            (volumes.n_frames, grid.n_tokens, grid.dim), np.float32, self._scratch
        )
        for first, block in volumes.blocks(self._tokenizer.block_frames):
            tokens[first : first + len(block)] = self._tokenizer.encode(block, intensity)
            tell(len(block))
        device = self._tokenizer.compute_device
        return RunTokens(
            tokens, intensity.scalars, intensity.arrays, volumes.description, device
        )  # fmt: skip


class SeriesEncoding:
    """Encoding with a :class:`SeriesTokenizer`.

    Parameters
    ----------
    tokenizer : SeriesTokenizer
    source : RunSource
    tr : float
        Seconds between the run's frames.
    scratch : Path, optional

    Raises
    ------
    RunError, AtlasError
        If the run's samples do not fit the tokenizer's template or atlas.
    """

    def __init__(
        self, tokenizer: SeriesTokenizer, source: RunSource, tr: float, scratch: Path | None
    ) -> None:
        wrong = tokenizer.problem(source.space)
        if wrong:
            raise RunError(
                expected("Run", f"for tokenizer {tokenizer.name}", wrong, source.space.description,
                         "Choose another template, or other runs.")
            )  # fmt: skip
        self._tokenizer, self._source, self._tr, self._scratch = tokenizer, source, tr, scratch
        self._places = self._matrix = tokenizer.places(source.space)
        if source.to_space is not None:  # one product instead of two
            self._matrix = SparseMap(self._places.matrix @ source.to_space.matrix)
        self._series = np.empty((self._places.shape[0], source.n_frames), np.float32)
        self._signal: npt.NDArray[np.float32] | None = None
        self._done = 0
        self.consumer = self

    def add(self, block: npt.NDArray[Any]) -> None:
        """Map the next frames of the run. Add all frames before :meth:`finish`."""
        if self._signal is None:
            self._signal = self._count_signal(block)
        values = scaled_product(self._matrix, block, self._source)
        self._series[:, self._done : self._done + len(block)] = values
        self._done += len(block)

    def _count_signal(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        source = self._source
        if source.to_space is not None:
            return self._places.signal(scaled_product(source.to_space, block, source).T)
        zero = -source.intercept / source.slope if source.intercept else 0
        return self._places.signal(block, zero)

    def finish(self, tell: Callable[[int], None] = lambda _: None) -> RunTokens:
        """Encode the run, once all of its blocks were added; tell the frames of each block."""
        assert self._signal is not None
        grid = self._tokenizer.grid
        n_frames, _ = self._tokenizer.timing(self._done, self._tr)
        signal = self._signal
        if isinstance(self._source.space, ParcelSpace):
            signal = signal * _varies(self._series)
        made = self._tokenizer.encode_series(self._series, self._tr, self._places, signal)
        tokens = ScratchArray((n_frames, grid.n_tokens, grid.dim), np.float32, self._scratch)
        done = 0
        for block in made.blocks:
            tokens[done : done + len(block)] = block
            done += len(block)
            tell(len(block))
        assert done == n_frames
        self._series = np.empty((0, 0), np.float32)
        how = f"{self._source.space.description}, map {self._places.sha256[:12]}"
        return RunTokens(tokens, made.scalars, made.arrays, how + self._source.description)


def _varies(series: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return 1 for each parcel that varies over time, and 0 for those without signal."""
    largest = np.abs(series).max(axis=1)
    return (np.ptp(series, axis=1) > _LEAST_RANGE * largest).astype(np.float32)
