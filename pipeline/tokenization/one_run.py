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

from fmritok.errors import RunError, expected
from fmritok.pipeline.headers.placement import not_in_mni
from fmritok.pipeline.headers.run_header import run_header
from fmritok.pipeline.headers.timing import repetition_time
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.memory import (
    MemorySource,
    check_arguments,
    check_real,
    check_tr,
    files_of,
    space_of_samples,
)
from fmritok.pipeline.sources.opening import RunFiles, RunSource, open_run
from fmritok.pipeline.sources.scratch import check_scratch
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.tokenization.encoding import RunTokens, SeriesEncoding, VolumeEncoding
from fmritok.quantities import counted
from fmritok.tokenizers.base import SeriesTokenizer, Tokenizer, VolumeTokenizer
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.tokenizers.spaces import ParcelSpace, SampleSpace, VolumeSpace

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
            f"TokenizedRun({name}: {counted(frames, 'frame')} every {self.tr:g} s, "
            f"{counted(tokens, 'token')} of {counted(dim, 'feature')})"
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
    space: SampleSpace | None = None,
    scratch: Path | None = None,
) -> TokenizedRun:
    """Tokenize one run.

    Parameters
    ----------
    source : path, nibabel image, or np.ndarray
        Volumes in MNI space (``.nii``, ``.nii.gz``), grayordinates (``.dtseries.nii``) or a left
        ``.func.gii``; or time courses of parcels (``.1D``, ``.tsv``, ``.csv``, ``.npy``, HDF5,
        ``.ptseries.nii``). An array holds volumes (x, y, z, n_frames), with ``affine``; or time
        courses (n_frames, n_samples) of the vertices of both hemispheres, or of the parcels of the
        tokenizer's atlas: in the order of its table, or in any order as a pandas DataFrame with
        their names.
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
    space : SampleSpace, optional
        The columns of an array (n_frames, n_samples): voxels, grayordinates or named parcels
        (:mod:`fmritok.tokenizers.spaces`). Default: vertices if their number is that of a mesh,
        else parcels.
    scratch : Path, optional
        Folder for temporary files.

    Returns
    -------
    TokenizedRun

    Raises
    ------
    RunError
        If the run cannot be read, or not encoded by this tokenizer.
    MachineError
        If no temporary files can be created in ``scratch``.
    FmritokError
        If the tokenizer or an option is unknown.
    TypeError
        If an argument does not apply to the source, such as ``mask`` to grayordinates.
    """
    check_arguments(
        source, {"right": right, "warp": warp, "mask": mask, "affine": affine, "space": space}
    )
    check_tr(tr)
    check_scratch(scratch)
    if isinstance(tokenizer, str):
        tokenizer = build_tokenizer(tokenizer, options or {})
    elif options:
        raise TypeError("options belong to a tokenizer that is given by its name")
    tokenizer.setup()
    if not isinstance(source, str | PathLike) and getattr(source, "ndim", 0) == 2:
        names = tuple(map(str, getattr(source, "columns", ())))
        run, seconds = _samples(np.asarray(source), names, tr, space)
        where = f"an array of {run.space.description}"
        return _tokenized(tokenizer, _encode(run, tokenizer, seconds, scratch, where), seconds)
    n_parcels = tokenizer.grid.n_tokens
    with ExitStack() as held:
        files = held.enter_context(
            files_of(source, right=right, warp=warp, mask=mask, affine=affine, tr=tr,
                     scratch=scratch, n_parcels=n_parcels if _takes_parcels(tokenizer) else 0)
        )  # fmt: skip
        seconds = _checked(files, tr)
        opened = open_run(files)
        encoded = _encode(opened, tokenizer, seconds, scratch, str(files.path))
        return _tokenized(tokenizer, encoded, seconds)


def _takes_parcels(tokenizer: Tokenizer) -> bool:
    return not tokenizer.problem(ParcelSpace(tokenizer.grid.n_tokens))


def _checked(files: RunFiles, tr: float | None) -> float:
    """Check the header of a run, and return its repetition time, s."""
    header = run_header(
        files.path, files.right, native_ok=files.warp is not None, layout=files.layout
    )
    seconds = repetition_time(header.tr, files.path, n_frames=header.n_frames, given=tr)
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


def _samples(
    series: npt.NDArray[Any], names: tuple[str, ...], tr: float | None, space: SampleSpace | None
) -> tuple[MemorySource, float]:
    """Return the source of an array of time courses, and its repetition time, s."""
    check_real(series)
    n_samples = series.shape[1]
    space = space or space_of_samples(n_samples) or ParcelSpace(n_samples, names)
    if tr is None or space.n_samples != n_samples:
        raise RunError(
            expected("Time courses", f"of shape {series.shape}",
                     f"tr, and one column for each sample of {space.description}", f"tr = {tr}",
                     "Give tr in seconds, and the space of the columns.")
        )  # fmt: skip
    elsewhere = not_in_mni(space.shape, space.affine) if isinstance(space, VolumeSpace) else ""
    if elsewhere:
        raise RunError(
            expected("Time courses", f"of {space.description}", "a grid in MNI space", elsewhere,
                     "Give the affine of the MNI grid.")
        )  # fmt: skip
    return MemorySource(series, space), tr


def _tokenized(tokenizer: Tokenizer, encoded: RunTokens, seconds: float) -> TokenizedRun:
    values = encoded.tokens[:]
    encoded.tokens.close()
    _, token_tr = tokenizer.timing(2, seconds)
    grid = tokenizer.grid
    return TokenizedRun(
        values, float(token_tr), grid.coordinates, dict(grid.static), dict(encoded.arrays),
        dict(encoded.scalars), tokenizer.provenance(), encoded.description,
    )  # fmt: skip
