"""What another distribution could bring: a tokenizer and an adapter for a layout of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fmritok.pipeline.catalog.cohort import (
    Cohort,
    Found,
    Input,
    RunFile,
    build_cohort,
    checked_root,
)
from fmritok.tokenizers.base import Frames, TokenGrid, Tokens, VolumeTokenizer
from fmritok.tokenizers.grid import SHAPE, cell_centres
from fmritok.tokenizers.vae.intensity import VolumeStatistics


class Identity:
    """Intensities as they are."""

    scalars: ClassVar[dict[str, float]] = {}
    arrays: ClassVar[dict[str, np.ndarray]] = {}

    def forward(self, frames: Frames) -> Frames:
        return frames


class BlockMeans(VolumeTokenizer):
    """The mean of each cube of voxels.

    Parameters
    ----------
    cells : int
        Cubes along an edge.
    """

    name = "block-means"
    default_precision = "float16"

    def __init__(self, cells: int = 3) -> None:
        self.cells = cells

    @property
    def grid(self) -> TokenGrid:
        layout = {"token_order": "ax0 slowest, then ax1, ax2", "cells": [self.cells] * 3}
        return TokenGrid(self.cells**3, 1, cell_centres(self.cells), layout)

    def provenance(self) -> dict[str, Any]:
        return {"tokenizer": self.name, "cells": self.cells, "layout": dict(self.grid.layout)}

    def setup(self) -> None:
        pass

    def fit(self, statistics: VolumeStatistics) -> Any:
        return Identity()

    def restore(self, scalars: Any, arrays: Any) -> Any:
        return Identity()

    def encode(self, frames: Frames, intensity: Any) -> Tokens:
        n, edge = self.cells, SHAPE[0] // self.cells
        cubes = frames.reshape(len(frames), n, edge, n, edge, n, edge)
        return cubes.mean((2, 4, 6)).reshape(len(frames), -1, 1)

    def decode(self, tokens: Tokens, intensity: Any) -> Frames:
        cubes = tokens.reshape(len(tokens), *[self.cells] * 3)
        edge = SHAPE[0] // self.cells
        for axis in (1, 2, 3):
            cubes = cubes.repeat(edge, axis)
        return cubes


def catalog_flat(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue a folder of files named ``SUBJECT.nii.gz``."""
    root, found = checked_root(root), Found()
    for path in sorted(root.glob("*.nii.gz")):
        subject = path.name.removesuffix(".nii.gz")
        found.files.append(RunFile(run_id=f"flat_{subject}", subject=subject, path=path))
    return build_cohort("flat", root, found, tr=tr, looked_for="*.nii.gz")
