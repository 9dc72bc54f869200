"""Tokenize one run without a store, with the same code as ``fmritok tokenize``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.run_header import run_header
from fmritok.pipeline.headers.timing import repetition_time
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.memory import MemorySource, files_of, space_of_samples
from fmritok.pipeline.sources.opening import RunFiles, RunSource, open_run
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.tokenization.encoding import RunTokens, SeriesEncoding, VolumeEncoding
from fmritok.tokenizers.base import SeriesTokenizer, SeriesTokens, Tokenizer, VolumeTokenizer
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.tokenizers.spaces import SurfaceSpace
from fmritok.tokenizers.sparse import SparseMap

__all__ = ["TokenizedRun", "tokenize"]

Path_ = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class TokenizedRun:
    """Tokens of one run. ``numpy.asarray`` returns the values.

    Attributes
    ----------
    values : np.ndarray of shape (n_frames, n_tokens, dim), float32
        Tokens as computed, without the rounding of a store.
    tr : float
        Seconds between token frames.
    coordinates : np.ndarray of shape (n_tokens, 3), float32
        Centre of each token, mm, MNI.
    static : dict of str to np.ndarray
        Further arrays of the tokenizer, such as the mask of cortical pixels.
    arrays : dict of str to np.ndarray
        Arrays of this run, such as the coverage of each parcel.
    scalars : dict of str to float
        Numbers of this run, such as the maximum intensity.
    provenance : dict
        All settings that change the tokens.
    description : str
        Description of the map from the samples of the file to those of the tokenizer.
    """

    values: npt.NDArray[np.float32]
    tr: float
    coordinates: npt.NDArray[np.float32]
    static: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=bool(copy) or dtype is not None)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        frames, tokens, dim = self.values.shape
        name = self.provenance.get("tokenizer", "")
        return (
            f"TokenizedRun({name}: {frames} frames every {self.tr:g} s, {tokens} tokens of "
            f"{dim} features)"
        )


def tokenize(
    source: Any,
    tokenizer: str | Tokenizer = "network",
    *,
    tr: float | None = None,
    options: Mapping[str, Any] | None = None,
    right: Path_ | None = None,
    warp: Path_ | None = None,
    mask: Path_ | None = None,
    affine: npt.ArrayLike | None = None,
    scratch: Path | None = None,
) -> TokenizedRun:
    """Tokenize one run.

    Parameters
    ----------
    source : path, nibabel image, or np.ndarray
        Volumes in MNI space (``.nii``, ``.nii.gz``), grayordinates (``.dtseries.nii``) or a left
        ``.func.gii``. An array holds volumes (x, y, z, n_frames), with ``affine``; or time courses
        (n_frames, n_samples) of the vertices of both hemispheres, or of the parcels of the
        tokenizer's atlas.
    tokenizer : str or Tokenizer
        Name such as ``network``, or a tokenizer object.
    tr : float, optional
        Seconds between frames. Required for arrays; otherwise it overrides the header.
    options : dict, optional
        Options of a tokenizer given by name.
    right : path, optional
        The right ``.func.gii``.
    warp : path, optional
        FSL warp from the native space of the volumes to MNI space.
    mask : path, optional
        Brain mask on the grid of the volumes.
    affine : array of shape (4, 4), optional
        Voxel indices to mm. Required for an array of volumes.
    scratch : Path, optional
        Folder for temporary files.

    Returns
    -------
    TokenizedRun

    Raises
    ------
    RunError
        If the run cannot be read, or not encoded by this tokenizer.
    FmritokError
        If the tokenizer or an option is unknown.
    """
    if isinstance(tokenizer, str):
        tokenizer = build_tokenizer(tokenizer, options or {})
    elif options:
        raise TypeError("options belong to a tokenizer that is given by its name")
    tokenizer.setup()
    if not isinstance(source, str | PathLike) and getattr(source, "ndim", 0) == 2:
        encoded, seconds = _encode_series(np.asarray(source), tokenizer, tr, scratch)
        return _tokenized(tokenizer, encoded, seconds)
    with ExitStack() as held:
        files = held.enter_context(
            files_of(source, right=right, warp=warp, mask=mask, affine=affine, tr=tr,
                     scratch=scratch)
        )  # fmt: skip
        seconds = _checked(files, tr)
        run = open_run(files)
        return _tokenized(tokenizer, _encode(run, tokenizer, seconds, scratch, files.path), seconds)


def _checked(files: RunFiles, tr: float | None) -> float:
    """Check the header of a run, and return its repetition time, s."""
    path, right = Path(files.path), Path(files.right) if files.right else None
    header = run_header(path, right, native_ok=bool(files.warp))
    seconds = repetition_time(header.tr, path, n_frames=header.n_frames, given=tr)
    problem = header.problem or seconds.problem
    if problem:
        raise RunError(problem)
    return seconds.tr


def _encode(
    source: RunSource, tokenizer: Tokenizer, tr: float, scratch: Path | None, where: str
) -> RunTokens:
    with ExitStack() as held:
        encoding: VolumeEncoding | SeriesEncoding
        if isinstance(tokenizer, VolumeTokenizer):
            wrong = tokenizer.problem(source.space)
            if wrong:
                raise RunError(
                    expected("Run", where, wrong, source.space.description, "Give volumes.")
                )
            volumes = RunVolumes(
                source, voxel_statistics=tokenizer.needs_voxel_statistics, scratch=scratch
            )
            held.callback(volumes.close)
            encoding = VolumeEncoding(tokenizer, volumes, scratch)
        else:
            assert isinstance(tokenizer, SeriesTokenizer)
            encoding = SeriesEncoding(tokenizer, source, tr, scratch)
        for block in checked_blocks(source, where):
            encoding.consumer.add(block)
        return encoding.finish()


def _encode_series(
    series: npt.NDArray[Any], tokenizer: Tokenizer, tr: float | None, scratch: Path | None
) -> tuple[RunTokens | SeriesTokens, float]:
    """Encode time courses of vertices, or of parcels of the tokenizer's atlas."""
    n_frames, n_samples = series.shape
    if tr is None or not isinstance(tokenizer, SeriesTokenizer):
        raise RunError(
            expected("Time courses", f"of shape {series.shape} for tokenizer {tokenizer.name}",
                     "a tokenizer of time courses, and tr", f"tr = {tr}",
                     "Give tr in seconds, or volumes (x, y, z, n_frames) with their affine.")
        )  # fmt: skip
    if tokenizer.grid.dim == 1 and n_samples == tokenizer.grid.n_tokens:
        parcels = SurfaceSpace.of_meshes("parcels", (n_samples, 0))
        for _ in checked_blocks(MemorySource(series, parcels), "an array of parcels"):
            pass  # refuses constant series and values that are not finite
        own = SparseMap(scipy.sparse.identity(n_samples, format="csr"))
        signal = (series != 0).any(axis=0).astype(np.float32)
        values = np.array(series.T, np.float32, order="C")
        return tokenizer.encode_series(values, tr, own, signal), tr
    space = space_of_samples(n_samples)
    if space is None:
        raise RunError(
            expected("Time courses", f"for tokenizer {tokenizer.name}",
                     f"the vertices of both hemispheres, or {tokenizer.grid.n_tokens} parcels",
                     f"{n_frames} frames of {n_samples} samples", "Check the shape.")
        )  # fmt: skip
    return _encode(MemorySource(series, space), tokenizer, tr, scratch, "an array of vertices"), tr


def _tokenized(
    tokenizer: Tokenizer, encoded: RunTokens | SeriesTokens, seconds: float
) -> TokenizedRun:
    if isinstance(encoded, RunTokens):
        values, description = encoded.tokens[:], encoded.description
        encoded.tokens.close()
    else:
        values, description = np.concatenate(list(encoded.blocks)), "time courses of parcels"
    _, token_tr = tokenizer.timing(2, seconds)
    grid = tokenizer.grid
    return TokenizedRun(
        values, float(token_tr), grid.coordinates, dict(grid.static), dict(encoded.arrays),
        dict(encoded.scalars), tokenizer.provenance(), description,
    )  # fmt: skip
