"""The ``flatmap`` tokenizer: cortical activity on a flat map of both hemispheres, cut into cells.

The method of fm-MAE and CortexMAE (Lane et al., arXiv 2510.13768). Volumes are first sampled
between the white and the pial surface. The time course of each vertex is standardized, optionally
resampled in time, and interpolated onto the pixels of a flat map. Newer releases of CortexMAE
standardize each pixel instead. The tokens are the cells of 16 x 16 pixels that contain cortex.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fmritok.errors import FmritokError, RunError, expected
from fmritok.tokenizers.base import Series, SeriesTokenizer, SeriesTokens, TokenGrid, Tokens
from fmritok.tokenizers.flatmap.cortex import (
    EMBEDDED_TEMPLATE,
    MNI305_TO_MNI152,
    CortexTemplate,
    load_template,
)
from fmritok.tokenizers.flatmap.pictures import save_pictures, save_surfaces
from fmritok.tokenizers.flatmap.pixels import CELL, FlatGrid, build_flat_grid
from fmritok.tokenizers.flatmap.samples import DEPTHS, ribbon_map, vertex_map
from fmritok.tokenizers.flatmap.shading import sulcal_shading
from fmritok.tokenizers.option_types import refused_option
from fmritok.tokenizers.spaces import SampleSpace, SurfaceSpace, VolumeSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.stored import StoredTokens, rebuild
from fmritok.tokenizers.temporal import check_tr, resample, resampled_frames, standardize, varying

__all__ = ["FlatmapTokenizer", "Resampling", "Standardize"]

Standardize = Literal["vertex", "pixel"]
Resampling = Literal["cortexmae", "scipy"]

_FRAMES_AT_ONCE = 64


class FlatmapTokenizer(SeriesTokenizer):
    """Tokenize cortical activity on a flat map.

    Parameters
    ----------
    template : str
        ``fsaverage5`` (shipped with nilearn), or the path of a template; see
        :mod:`fmritok.tokenizers.flatmap.cortex`.
    tr : float, optional
        Seconds between token frames (1.0 in the published model). Default: the run's own.
    standardize : {"vertex", "pixel"}
        Whose time courses get mean 0 and variance 1: those of vertices, as in the first release of
        CortexMAE, or those of pixels, as in its second.
    resampling : {"cortexmae", "scipy"}
        cortexmae: the anti-alias filter mirrors time courses at their ends, and a last frame that
        the run does not fill is left out. scipy: it point-reflects them, and such a frame is kept
        (the only way in fmritok 0.1).
    move_surfaces : bool
        Move a template's surfaces from MNI305 (fsaverage) to MNI152, where volumes lie. False: use
        them as they are, 2 mm off (the only way in fmritok 0.1).

    Raises
    ------
    FmritokError
        If an option has another value.
    """

    name: ClassVar[str] = "flatmap"
    default_precision: ClassVar[str] = "float16"
    file_types: ClassVar[tuple[str, ...]] = (".png", ".func.gii")

    def __init__(
        self,
        template: str = EMBEDDED_TEMPLATE,
        *,
        tr: float | None = None,
        standardize: Standardize = "vertex",
        resampling: Resampling = "cortexmae",
        move_surfaces: bool = True,
    ) -> None:
        for option, value, values in (
            ("standardize", standardize, get_args(Standardize)),
            ("resampling", resampling, get_args(Resampling)),
            ("move_surfaces", move_surfaces, (True, False)),
        ):
            if value not in values:
                wanted = f"one of {', '.join(map(str, values))}"
                raise refused_option(f"flatmap.{option}", wanted, value)
        self.reference = template
        check_tr("flatmap.tr", tr)
        self.tr = tr
        self.standardize = standardize
        self.resampling = resampling
        self.move_surfaces = move_surfaces
        self._places: dict[str, SparseMap] = {}

    @cached_property
    def template(self) -> CortexTemplate:
        """The cortical template."""
        return load_template(self.reference, move=self.move_surfaces)

    @property
    def template_space(self) -> str:
        """Space of volumes that the white and the pial surface lie in."""
        return self.template.volumes

    @cached_property
    def flat(self) -> FlatGrid:
        """The pixel grid of the flat map."""
        return build_flat_grid(self.template)

    @cached_property
    def painting(self) -> SparseMap:
        """The sparse map from vertices of both hemispheres to the features of all tokens."""
        flat = self.flat
        row = np.repeat(flat.feature, 3)
        entries = (flat.weight.ravel(), (row, flat.vertex.ravel()))
        shape = (len(flat.cell) * CELL**2, sum(self.template.n_vertices))
        return SparseMap(scipy.sparse.coo_array(entries, shape))

    @cached_property
    def grid(self) -> TokenGrid:
        """One token per cell with cortex, one feature per pixel of the cell; both row by row."""
        flat, template = self.flat, self.template
        middle = np.concatenate([h.middle for h in template.hemispheres])
        where = np.einsum("pk,pkd->pd", flat.weight, middle[flat.vertex])
        token = flat.feature // CELL**2
        count = np.bincount(token, minlength=len(flat.cell))
        centre = np.stack([np.bincount(token, x, len(flat.cell)) for x in where.T], axis=1)
        layout = {
            "image": list(flat.shape),
            "pixel_mm": flat.pixel_mm,
            "patch": CELL,
            "token_order": "cells that hold cortex, row by row from superior, left hemisphere left",
            "feature_order": "pixels of a cell, row by row; 0 where `pixel_mask` is False",
            "orientation": "anterior outwards in both hemispheres, superior up",
            "static": {"cell": "row and column of each token's cell, in cells",
                       "pixel_mask": "pixels that are cortex"},
        }  # fmt: skip
        return TokenGrid(
            len(flat.cell),
            CELL**2,
            (centre / count[:, None]).astype(np.float32),
            layout,
            {"pixel_mask": flat.mask, "cell": flat.cell.astype(np.int32)},
        )

    def provenance(self) -> dict[str, Any]:
        """Return all settings that change the tokens."""
        template: dict[str, Any] = {
            "space": self.template.space, "sha256": self.template.sha256,
        }  # fmt: skip
        if self.template.moved:
            template["surfaces"] = {
                "from": "MNI305", "to": "MNI152", "affine": [list(row) for row in MNI305_TO_MNI152]
            }  # fmt: skip
        resampled: dict[str, Any] | None = None
        if self.tr is not None:
            resampled = {
                "seconds": self.tr, "interpolation": "pchip", "antialias": "chebyshev, order 8"
            }  # fmt: skip
            if self.resampling == "cortexmae":
                resampled |= {"padding": "even", "last_frame": "only if the run fills it"}
        return {
            "tokenizer": self.name,
            "template": template,
            "painting": {"sha256": self.painting.sha256, "interpolation": "barycentric"},
            "volume_sampling": {"depths": list(DEPTHS), "interpolation": "trilinear"},
            "standardized": f"each {self.standardize} over time",
            "tr": resampled,
            "layout": dict(self.grid.layout),
        }

    def notes(self) -> dict[str, Any]:
        """Return the template as the user gave it."""
        return {"template": self.reference}

    def timing(self, n_frames: int, tr: float) -> tuple[int, float]:
        """Return the number of frames and the repetition time after resampling."""
        whole = self.resampling == "cortexmae"
        return resampled_frames(n_frames, tr, self.tr, whole=whole), self.tr or tr

    def setup(self) -> None:
        """Build the map from vertices to pixels."""
        _ = self.painting

    @classmethod
    def save(cls, stored: StoredTokens, out: Path, overrides: Mapping[str, str]) -> list[Path]:
        """Draw the flat map, or write the vertices of each hemisphere.

        Pictures need no template; with it, they show the sulci.
        """
        if out.suffix == ".png":
            save_pictures(stored, out, cls.shading(stored, overrides))
            return [out]
        tokenizer = rebuild(stored, cls, overrides)
        assert isinstance(tokenizer, FlatmapTokenizer)
        left = tokenizer.template.n_vertices[0]
        return save_surfaces(tokenizer.vertices(stored.tokens), left, stored.tr, out)

    @classmethod
    def shading(
        cls, stored: StoredTokens, overrides: Mapping[str, str] | None = None
    ) -> npt.NDArray[np.float32] | None:
        """Return the sulci of a group's flat map; None if its template is not on this machine."""
        try:
            tokenizer = rebuild(stored, cls, overrides or {})
        except (FmritokError, OSError):
            return None
        assert isinstance(tokenizer, FlatmapTokenizer)
        return sulcal_shading(tokenizer.template, tokenizer.flat)

    def vertices(self, tokens: Tokens) -> Series:
        """Return the mean over the pixels of each vertex, shape (n_vertices, n_frames)."""
        matrix = self.painting.matrix
        total = np.asarray(matrix.sum(axis=0)).ravel()
        sums = matrix.T @ tokens.reshape(len(tokens), -1).T.astype(np.float64)
        return (sums / np.maximum(total, 1e-9)[:, None]).astype(np.float32)

    def problem(self, space: SampleSpace) -> str:
        """Return why runs in a sample space cannot be encoded: surfaces must have its mesh."""
        if isinstance(space, SurfaceSpace) and space.n_vertices != self.template.n_vertices:
            return f"{self.template.n_vertices[0]} vertices of {self.template.space} a hemisphere"
        return super().problem(space)

    def places(self, space: SampleSpace) -> SparseMap:
        """Return the map from samples to template vertices."""
        if space.key not in self._places:
            self._places[space.key] = self._map_from(space)
        return self._places[space.key]

    def _map_from(self, space: SampleSpace) -> SparseMap:
        if isinstance(space, VolumeSpace):
            return ribbon_map(space, self.template)
        wrong = self.problem(space)
        if wrong or not isinstance(space, SurfaceSpace):
            raise RunError(
                expected("Surface data", f"for template {self.reference}", wrong,
                         space.description, "Choose the template of the data.")
            )  # fmt: skip
        return vertex_map(space, np.unique(self.flat.vertex), template=self.reference)

    def encode_series(
        self, series: Series, tr: float, places: SparseMap, signal: npt.NDArray[np.float32]
    ) -> SeriesTokens:
        """Standardize and resample the time courses of vertices or pixels; gather them to cells."""
        needed = np.zeros(len(series), bool)
        needed[self.flat.vertex] = True
        by_pixel = self.standardize == "pixel"
        varies = varying(series) if by_pixel else standardize(series)
        if not varies[needed].any():
            raise RunError(
                expected("Run", "on the cortical surface", "vertices that vary over time", "none",
                         "Check that the data lie in the template's space.")
            )  # fmt: skip
        if by_pixel:
            series = self._painted(series)
            standardize(series)
        if self.tr is not None:
            n_frames, _ = self.timing(series.shape[1], tr)
            padding: Literal["even", "odd"] = "even" if self.resampling == "cortexmae" else "odd"
            series = resample(series, tr, self.tr, "pchip", padding=padding, n_frames=n_frames)
        lost = int((needed & ~varies).sum())
        return SeriesTokens(
            self._tokens(series, painted=by_pixel),
            {"vertices_without_signal": lost, "vertices": int(needed.sum())},
        )

    def _painted(self, series: Series) -> Series:
        """Return the time courses of all features, shape (n_features, n_frames)."""
        features = np.empty((self.painting.shape[0], series.shape[1]), np.float32)
        for first in range(0, series.shape[1], _FRAMES_AT_ONCE):
            frames = slice(first, first + _FRAMES_AT_ONCE)
            features[:, frames] = self.painting.apply(series[:, frames])
        return features

    def _tokens(self, series: Series, *, painted: bool) -> Iterator[Tokens]:
        for first in range(0, series.shape[1], _FRAMES_AT_ONCE):
            block = series[:, first : first + _FRAMES_AT_ONCE]
            features = block if painted else self.painting.apply(block)
            cells = features.reshape(-1, CELL**2, features.shape[1])
            tokens = np.empty((features.shape[1], len(cells), CELL**2), np.float32)
            for number, cell in enumerate(cells):  # one cell at a time stays in the cache
                tokens[:, number] = cell.T
            yield tokens
