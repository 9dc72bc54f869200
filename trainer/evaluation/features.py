"""Compute features of windows and runs with a frozen encoder, trained or untrained."""

# X = W, or C * W with cells kept apart

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.progress import tracked
from fmritok.trainer.config import Config
from fmritok.trainer.data.reading import Batch, window_loader
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.record.checkpoint import TOKENS, Checkpoint
from fmritok.trainer.record.folder import find_checkpoint
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = [
    "FrozenEncoder",
    "Pool",
    "load_encoder",
    "run_features",
    "spread_windows",
    "window_features",
]

Pool = Literal["mean", "cells"]

_BATCH = 16


class FrozenEncoder(NamedTuple):
    """An encoder in evaluation mode."""

    encoder: TokenTransformer
    config: Config
    window: int
    """frames of a window in training"""
    source: dict[str, Any]
    """checkpoint, step and checksum, for the scores"""
    group: SavedGroup
    """meaning of the tokens it was trained on"""


def load_encoder(
    training: Path, group: TokenGroup | None = None, *, untrained_seed: int | None = None
) -> FrozenEncoder:
    """Load the encoder of a training, or build an untrained one of the same shape.

    Parameters
    ----------
    training : Path
        Folder of a training, or one of its checkpoints.
    group : TokenGroup, optional
        Tokens to encode. Refused if their meaning differs from those of the training.
    untrained_seed : int, optional
        Initialise weights with this seed instead of loading them.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it was trained on other tokens.
    """
    checkpoint = find_checkpoint(training)
    trained = _saved_group(checkpoint, group)
    if group is not None:
        trained.refuse_others(group.contract, checkpoint.folder)
    config = checkpoint.config
    layout = TokenLayout.of(trained, patch=config.model.patch, window=config.data.window)
    seed = config.train.seed if untrained_seed is None else untrained_seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_objective(config, layout)
    source: dict[str, Any] = {"checkpoint": str(checkpoint.folder), "step": checkpoint.step}
    if untrained_seed is None:
        checkpoint.load_weights(model)
        source["sha256"] = checkpoint.sha256()
    else:
        source = {"untrained": f"as {checkpoint.folder}", "seed": seed}
    return FrozenEncoder(model.features.eval(), config, model.window, source, trained)


def spread_windows(n_frames: int, *, window: int, crops: int) -> list[tuple[int, int]]:
    """Return first frame and length of evenly spread windows of a run; they may overlap."""
    length = min(window, n_frames)
    starts = np.linspace(0, n_frames - length, crops).round().astype(int)
    return [(first, length) for first in np.unique(starts).tolist()]


def run_features(
    frozen: FrozenEncoder,
    group: TokenGroup,
    index: RunIndex,
    *,
    crops: int,
    device: torch.device,
    workers: int = 0,
    pool: Pool = "mean",
    batch_size: int = _BATCH,
) -> npt.NDArray[np.float32]:
    """Return each run's pooled tokens and CLS, averaged over evenly spread windows.

    Parameters
    ----------
    frozen : FrozenEncoder
    group : TokenGroup
    index : RunIndex
        The runs.
    crops : int
        Windows of each run.
    device : torch.device
    workers, batch_size : int
    pool : {"mean", "cells"}
        ``mean``: the mean of all tokens. ``cells``: the mean over time of each cell, concatenated.

    Returns
    -------
    np.ndarray of shape (n_runs, 2 * width) or (n_runs, (n_cells + 1) * width), float32
    """
    spread = [
        (run, *place)
        for run, n_frames in enumerate(index.n_frames.tolist())
        for place in spread_windows(n_frames, window=frozen.window, crops=crops)
    ]
    run, first, length = np.array(spread, dtype=np.int64).reshape(-1, 3).T
    windows = Windows.of(run, first, length, np.zeros_like(run))
    pooled = 1 if pool == "mean" else frozen.encoder.grid.n_cells
    sums = np.zeros((len(index), (pooled + 1) * frozen.config.model.width))
    batches = _features(frozen, group, index, windows, device, workers, batch_size, pool)
    for batch, features in batches:
        np.add.at(sums, batch.runs.numpy(), features)
    counts = np.bincount(run, minlength=len(index))
    return (sums / counts[:, None]).astype(np.float32)


def window_features(
    frozen: FrozenEncoder,
    group: TokenGroup,
    index: RunIndex,
    windows: Windows,
    *,
    device: torch.device,
    workers: int = 0,
    pool: Pool = "mean",
    batch_size: int = _BATCH,
) -> npt.NDArray[np.float32]:
    """Return the pooled tokens and CLS of each window; see :func:`run_features`.

    Returns
    -------
    np.ndarray of shape (n_windows, 2 * width) or (n_windows, (n_cells + 1) * width), float32
    """
    batches = _features(frozen, group, index, windows, device, workers, batch_size, pool)
    return np.concatenate([features for _, features in batches])


def _features(
    frozen: FrozenEncoder,
    group: TokenGroup,
    index: RunIndex,
    windows: Windows,
    device: torch.device,
    workers: int,
    batch_size: int,
    pool: Pool,
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yield each batch with the pooled tokens and CLS of its windows."""
    encoder = frozen.encoder.to(device)
    requests = list(windows.batches(batch_size))
    batches = window_loader(group, index, requests, workers=workers)
    for batch in tracked(batches, len(requests), "batches"):
        with torch.no_grad():
            inputs = encoder.inputs(batch.to(device))
            encoded = encoder(
                encoder.embed(inputs.patches), inputs.static, inputs.times, inputs.valid
            )
            tokens_BUX = encoded.tokens.mean(2) if pool == "mean" else encoded.tokens.flatten(2)
            if inputs.valid is None:
                mean_BX = tokens_BUX.mean(1)
            else:
                weight_BU1 = inputs.valid[:, :, None].float()
                mean_BX = (tokens_BUX * weight_BU1).sum(1) / weight_BU1.sum(1)
            features = torch.cat([mean_BX, encoded.cls], dim=1).float().cpu().numpy()
        yield batch, features


def _saved_group(checkpoint: Checkpoint, group: TokenGroup | None) -> SavedGroup:
    """Return the meaning of a training's tokens; older checkpoints need the store for it."""
    if checkpoint.has(TOKENS):
        return SavedGroup.from_bytes(checkpoint.read_bytes(TOKENS), checkpoint.folder)
    if group is None:
        raise CheckpointError(
            expected("Checkpoint", checkpoint.folder, f"a file {TOKENS} with the meaning of "
                     "its tokens", "none: it is of an older release",
                     "Give the token group that it was trained on.")
        )  # fmt: skip
    said = checkpoint.state["group"]
    return SavedGroup(said["name"], said["contract"], group.notes, group.static)
