"""Decoded volumes beside the original ones: slices, their difference, the error in time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmritok.pictures.brain import PLANES, draw_slice
from fmritok.pictures.style import DIVERGING, robust_limit
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.pipeline.tokenization.decoding import stored_tokens
from fmritok.tokenizers.fidelity import time_course_error
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["DecodedRun", "decode_run", "draw_decoded"]

Floats = npt.NDArray[np.floating[Any]]

_FRAMES = 8
#: Voxels of the brain: above this share of the brightest.
_BRAIN = 0.15


class DecodedRun(NamedTuple):
    """First frames of a run, and what the tokens give back.

    Attributes
    ----------
    original, decoded : np.ndarray of shape (n_frames, 96, 96, 96), float32
    """

    original: Floats
    decoded: Floats

    @property
    def brain(self) -> npt.NDArray[np.bool_]:
        """Voxels that are bright and vary in time, shape (96, 96, 96)."""
        mean = self.original.mean(0)
        bright: npt.NDArray[np.bool_] = mean > _BRAIN * np.percentile(mean, 99.5)
        return bright & (self.original.std(0) > 0) if len(self.original) > 1 else bright

    @property
    def error(self) -> dict[str, float]:
        """Errors in the brain.

        ``image``: rms of the difference of the means, relative to the mean image.
        ``median, p95``: of time courses, relative to their SD, over voxels; NaN for one frame.
        """
        inside = self.brain
        before, after = self.original[:, inside], self.decoded[:, inside]
        mean = before.mean(0)
        image = np.sqrt(np.square(after.mean(0) - mean).mean() / np.square(mean).mean())
        found = {"image": float(image), "median": float("nan"), "p95": float("nan")}
        if len(before) > 1:
            courses = time_course_error(after, before)
            found |= {"median": courses.median, "p95": courses.percentile_95}
        return found


def decode_run(
    group: TokenGroup, run_id: str, cohort: Path, *, n_frames: int = _FRAMES
) -> DecodedRun:
    """Read the first frames of a run's file, and decode its tokens.

    Parameters
    ----------
    group : TokenGroup
        Of the tokenizer ``vae``.
    run_id : str
    cohort : Path
        Root of the cohort that the run's ``source`` is relative to.
    n_frames : int

    Raises
    ------
    FmritokError
        If the run's file or the weights are not on this machine.
    """
    run = group.run(run_id)
    n_frames = min(n_frames, int(run["n_frames"]))
    _, original = next(RunVolumes.read(cohort / run["source"]).blocks(n_frames))
    stored = stored_tokens(group, run_id, slice(n_frames))
    decoded = VaeTokenizer.decode_stored(stored, {})
    return DecodedRun(np.asarray(original[:n_frames]), np.asarray(decoded))


def draw_decoded(figure: FigureBase, run: DecodedRun) -> None:
    """Draw three slices of the first frame: original, decoded, and their difference."""
    original, decoded = run.original[0], run.decoded[0]
    difference = decoded - original
    bright = float(np.percentile(original, 99.9))
    inside = run.brain
    limit = robust_limit(difference[inside] if inside.any() else difference)
    rows = (
        ("original", original, "gray", (0.0, bright)),
        ("decoded", decoded, "gray", (0.0, bright)),
        ("decoded - original", difference, DIVERGING, (-limit, limit)),
    )
    grid = figure.subplots(3, 3)
    for line, (name, volume, colours, limits) in zip(grid, rows, strict=True):
        for axes, (view, plane, sides) in zip(line, PLANES, strict=True):
            shown = draw_slice(axes, volume, plane, sides, colours=colours, limits=limits)
            axes.set_title(f"{name}, {view}", weight="normal")
        figure.colorbar(shown, ax=list(line), shrink=0.8, label="intensity",
                        extend="both" if colours == DIVERGING else "max")  # fmt: skip
