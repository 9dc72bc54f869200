"""What another distribution could bring: a tokenizer, an objective, an adapter of a layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

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
from fmritok.trainer.config import ObjectiveConfig, require
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import Figure, Mean, ObjectiveOutput
from fmritok.trainer.objectives.masks import generator_of


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


class Denoising(nn.Module):
    """Add noise to the tokens, and predict them without it.

    Parameters
    ----------
    encoder : TokenTransformer
    config : Denoising.Config
    window : int
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ObjectiveConfig):
        name: str = "denoising"
        noise: float = 0.5
        head_width: int | None = None

        def __post_init__(self) -> None:
            require(self.noise > 0, "objective.noise", "above 0", self.noise)

    figures: ClassVar = (Figure("loss", "loss_mean_token", "clean patches, L2", "mean token"),)

    def __init__(self, encoder: TokenTransformer, config: Config, *, window: int) -> None:
        super().__init__()
        self.encoder, self.config, self.window = encoder, config, window
        self.head = nn.Linear(encoder.config.width, encoder.grid.n_features)

    @property
    def features(self) -> TokenTransformer:
        return self.encoder

    def forward(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        inputs = self.encoder.inputs(batch)
        shape = inputs.patches.shape[1:]
        noise = [generator_of(draw).standard_normal(shape) for draw in batch.draws.tolist()]
        noisy = inputs.patches + self.config.noise * torch.tensor(np.stack(noise)).float()
        embedded = self.encoder.embed(noisy)
        encoded = self.encoder(embedded, inputs.static, inputs.times, inputs.valid)
        predicted = self.head(encoded.tokens).float()
        loss = self._error(predicted, inputs)
        measures = {}
        if measure:
            zero = self._error(torch.zeros_like(predicted), inputs)
            measures = {"loss": Mean(loss.total.detach(), loss.n_values), "loss_mean_token": zero}
        return ObjectiveOutput(loss, measures)

    def after_step(self, progress: float) -> None:
        pass

    def _error(self, predicted: Tensor, inputs: Any) -> Mean:
        cost = (predicted - inputs.patches).square()
        keep = torch.ones_like(cost)
        if inputs.valid is not None:
            keep = keep * inputs.valid[:, :, None, None]
        return Mean((cost * keep).sum(), keep.sum())
