"""Pictures of stored runs: carpet plots, flat maps, parcels, and the error of the stored form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmritok.pictures.brain import draw_flat, draw_parcels
from fmritok.pictures.style import COLOURS, DIVERGING, figure_of, robust_limit
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.pipeline.tokenization.decoding import stored_tokens
from fmritok.tokenizers.flatmap.pictures import flat_images
from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["carpet", "choose_runs", "map_of", "storage_error"]

Floats = npt.NDArray[np.floating[Any]]

_CARPETS = 3
_MOST_FRAMES = 600
#: Relative rounding error of float16: rms of a uniform error of half a step.
_FLOAT16 = 2.0**-11 / np.sqrt(3)


def choose_runs(group: TokenGroup, most: int = _CARPETS) -> list[str]:
    """Return a run of each task, the first of the table."""
    firsts = group.runs.drop_duplicates("task")["run_id"].tolist()
    return (firsts + [one for one in group.runs["run_id"] if one not in firsts])[:most]


def carpet(group: TokenGroup, run_ids: list[str]) -> Figure:
    """Draw tokens over time: rows are parcels, or cells by their first temporal component."""
    figure = figure_of(9.5, 1.9 * len(run_ids) + 0.5)
    grid = figure.subplots(len(run_ids), 1, squeeze=False)[:, 0]
    for axes, run_id in zip(grid, run_ids, strict=True):
        run = group.run(run_id)
        n_frames = min(int(run["n_frames"]), _MOST_FRAMES)
        rows = _courses(group.values(run_id, 0, n_frames))
        shown = axes.imshow(
            rows, aspect="auto", cmap=DIVERGING, vmin=-2.5, vmax=2.5, interpolation="auto",
            extent=(0, n_frames * float(run["tr"]), len(rows), 0),
        )  # fmt: skip
        axes.set_title(f"{run_id} ({run['task']})", weight="normal")
        _mark_networks(axes, group, len(rows))
    grid[-1].set_xlabel("time (s)")
    figure.colorbar(shown, ax=list(grid), label="SD of the row", extend="both", aspect=40)
    return figure


def _courses(values: Floats) -> Floats:
    """Return a standardized time course of each token (n_tokens, n_frames)."""
    if values.shape[2] == 1:
        courses = values[:, :, 0].T.astype(np.float64)
    else:
        centred = (values - values.mean(0)).astype(np.float64)
        firsts = []
        for token in range(centred.shape[1]):  # by the small side: frames
            gram = centred[:, token] @ centred[:, token].T
            firsts.append(np.linalg.eigh(gram)[1][:, -1])
        courses = np.stack(firsts)
        courses *= np.where(courses @ courses.mean(0) < 0, -1, 1)[:, None]  # signs are free
    courses = courses - courses.mean(1, keepdims=True)
    return np.asarray(courses / np.maximum(courses.std(1, keepdims=True), 1e-12))


def _mark_networks(axes: Axes, group: TokenGroup, n_rows: int) -> None:
    """Write the names of networks beside their parcels."""
    names = group.provenance.get("layout", {}).get("networks")
    if not names or "network" not in group.static:
        axes.set_ylabel("cell")
        return
    network = group.array("network")
    axes.set_yticks([])
    edges = (np.flatnonzero(np.diff(network)) + 1).tolist()
    for edge in edges:
        axes.axhline(edge, color="k", lw=0.4)
    bounds = [0, *edges, n_rows]
    for number, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False)):
        wide = high - low > 0.045 * n_rows
        axes.axhspan(low, high, xmin=-0.012, xmax=-0.002, clip_on=False,
                     color=COLOURS[number % len(COLOURS)])  # fmt: skip
        if wide:
            axes.annotate(str(names[int(network[low])]), (-0.018, (low + high) / 2), fontsize=6.5,
                          xycoords=("axes fraction", "data"), ha="right", va="center",
                          annotation_clip=False)  # fmt: skip


def map_of(group: TokenGroup, run_id: str) -> tuple[Figure, str] | None:
    """Draw the frame of a run with the largest deviations, on the flat map or the parcels.

    Returns
    -------
    figure, caption
        None if the tokens of the group have no such places.
    """
    run = group.run(run_id)
    layout = group.provenance.get("layout", {})
    tokens = group.values(run_id, 0, min(int(run["n_frames"]), _MOST_FRAMES))
    frame = int(np.square(tokens - tokens.mean(0)).mean((1, 2)).argmax())
    at = f"Run {run_id}, frame {frame} ({frame * float(run['tr']):.1f} s)"
    if "pixel_mask" in group.static and "image" in layout:
        stored = stored_tokens(group, run_id, slice(frame, frame + 1))
        shading = FlatmapTokenizer.shading(stored)
        figure = figure_of(9.5, 4.2)
        axes = figure.subplots()
        shown = draw_flat(axes, flat_images(stored)[0], shading=shading)
        figure.colorbar(shown, ax=axes, shrink=0.7, extend="both", label="SD of the vertex")
        sulci = "Grey: sulci. " if shading is not None else ""
        return figure, f"{at}. {sulci}Anterior outwards, superior up; L: left hemisphere."
    if group.dim == 1 and "coordinates" in group.static:
        figure = figure_of(9.5, 3.4)
        axes = figure.subplots(1, 3)
        shown = draw_parcels(axes, group.array("coordinates"), tokens[frame, :, 0],
                             limit=robust_limit(tokens[frame]))  # fmt: skip
        figure.colorbar(shown, ax=list(axes), shrink=0.7, extend="both", label="SD of the parcel")
        return figure, f"{at}. Each dot is the centre of a parcel; L: left."
    return None


def storage_error(group: TokenGroup, run_id: str) -> tuple[float, float]:
    """Return how much the stored numbers change time courses, relative to their SD.

    Returns
    -------
    median, percentile_95 : float
        Over features that vary: rms of the rounding error over SD in time.
    """
    statistics = group.statistics(int(group.run(run_id)["row"]))
    std = statistics.std.astype(np.float64)
    if statistics.scale is not None:
        rounding = statistics.scale / np.sqrt(12)
    else:
        rounding = _FLOAT16 * np.sqrt(np.square(statistics.mean) + np.square(std))
    varies = std > 0
    if not varies.any():
        return float("nan"), float("nan")
    shares = rounding[varies] / std[varies]
    return float(np.median(shares)), float(np.percentile(shares, 95))
