"""Compute features of windows and runs with a frozen encoder, trained or untrained."""

# X = 2 * W, or (C + 1) * W with cells kept apart

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.progress import tracked
from fmritok.trainer.config import Config
from fmritok.trainer.data.reading import Batch, WindowReader
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import CheckpointError, TrainingError
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.pooling import mean_over_time
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.pretrained.model_folder import ModelFolder
from fmritok.trainer.record.checkpoint import TOKENS, Checkpoint
from fmritok.trainer.record.finding import find_trained
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = [
    "Encoded",
    "FrozenEncoder",
    "Pool",
    "encode",
    "following_windows",
    "load_frozen",
    "spread_windows",
]

Pool = Literal["mean", "cells"]

_TOKENS = 16_384  # of a batch
_MOST_WINDOWS = 256


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

    @property
    def name(self) -> str:
        """The checkpoint, for messages."""
        return str(self.source.get("checkpoint", self.source.get("untrained")))


def load_frozen(
    training: Path, group: TokenGroup | None = None, *, untrained_seed: int | None = None
) -> FrozenEncoder:
    """Load the encoder of a training, or build an untrained one of the same shape.

    Parameters
    ----------
    training : Path
        Folder of a training, one of its checkpoints, or a model folder.
    group : TokenGroup, optional
        Tokens to encode. Refused if their meaning differs from those of the training.
    untrained_seed : int, optional
        Initialise weights with this seed instead of loading them.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it was trained on other tokens.
    """
    found = find_trained(training)
    trained = _saved_group(found, group)
    if group is not None:
        trained.refuse_others(group.contract, found.folder)
    config = found.config
    layout = TokenLayout.of(trained, patch=config.model.patch, window=config.data.window)
    seed = config.train.seed if untrained_seed is None else untrained_seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, window = _encoder_of(found, config, layout, loaded=untrained_seed is None)
    source: dict[str, Any] = {"checkpoint": str(found.folder), "step": found.step}
    if untrained_seed is None:
        source["sha256"] = found.sha256()
    else:
        source = {"untrained": f"as {found.folder}", "seed": seed}
    return FrozenEncoder(encoder.eval(), config, window, source, trained)


def spread_windows(n_frames: int, *, window: int, crops: int) -> list[tuple[int, int]]:
    """Return first frame and length of evenly spread windows of a run; they may overlap."""
    length = min(window, n_frames)
    starts = np.linspace(0, n_frames - length, crops).round().astype(int)
    return [(first, length) for first in np.unique(starts).tolist()]


def following_windows(n_frames: int, *, window: int) -> list[tuple[int, int]]:
    """Return windows that follow each other; the last one ends with the run and may overlap."""
    if n_frames <= window:
        return [(0, n_frames)]
    starts = list(range(0, n_frames - window + 1, window))
    if starts[-1] + window < n_frames:
        starts.append(n_frames - window)
    return [(first, window) for first in starts]


class Encoded(NamedTuple):
    """Output of one encoder for a batch of windows."""

    tokens: Tensor
    """[B U C W], float32"""
    cls: Tensor
    """[B W], float32"""
    valid: Tensor | None
    """False in patches of padding alone [B U], bool; None without padding"""

    def pooled(self, pool: Pool) -> Tensor:
        """Return the mean token and CLS of each window [B X].

        ``mean``: the mean of all tokens. ``cells``: the mean over time of each cell, concatenated.
        """
        tokens_BUX = self.tokens.mean(2) if pool == "mean" else self.tokens.flatten(2)
        return torch.cat([mean_over_time(tokens_BUX, self.valid), self.cls], dim=1)


def encode(
    encoders: Sequence[FrozenEncoder],
    group: TokenGroup,
    index: RunIndex,
    windows: Windows,
    *,
    device: torch.device,
    workers: int = 0,
    batch_size: int | None = None,
) -> Iterator[tuple[Batch, list[Encoded]]]:
    """Read windows once, and encode them with several encoders of one shape.

    Parameters
    ----------
    encoders : sequence of FrozenEncoder
        Of one training: trained, and untrained ones of the same shape.
    group : TokenGroup
    index : RunIndex
        The runs that the windows are of.
    windows : Windows
    device : torch.device
    workers : int
        Processes that read; 0: this one.
    batch_size : int, optional
        Windows. Default: about as many as have 16,384 tokens.

    Yields
    ------
    batch : Batch
    encoded : list of Encoded
        By each encoder, on the CPU.

    Raises
    ------
    TrainingError
        If an output is not finite; names the run.
    """
    models = [one.encoder.to(device) for one in encoders]
    size = batch_size or _batch_size(models[0], windows)
    requests = list(windows.batches(size))
    batches = WindowReader(group, index).loader(requests, workers=workers)
    for batch in tracked(batches, len(requests), "batches"):
        found = []
        with torch.inference_mode():
            inputs = models[0].inputs(batch.to(device))
            valid = inputs.host_valid
            for model in models:
                out = model(model.embed(inputs.patches), inputs.static, inputs.times, valid)
                found.append(Encoded(out.tokens.float().cpu(), out.cls.float().cpu(), valid))
        for one, encoder in zip(found, encoders, strict=True):
            _refuse_unfinite(one, batch, index, encoder)
        yield batch, found


def _batch_size(model: TokenTransformer, windows: Windows) -> int:
    patches = -(-int(windows.n_frames.max(initial=1)) // model.grid.layout.patch)
    tokens = patches * int(model.grid.n_cells)
    return max(1, min(_MOST_WINDOWS, _TOKENS // tokens))


def _refuse_unfinite(
    encoded: Encoded, batch: Batch, index: RunIndex, encoder: FrozenEncoder
) -> None:
    fine = encoded.tokens.flatten(1).isfinite().all(1) & encoded.cls.isfinite().all(1)
    if not fine.all():
        run = str(index.run_id[int(batch.runs[~fine][0])])
        raise TrainingError(
            expected("Features", f"of run {run} by {encoder.name}", "finite numbers",
                     "NaN or infinity", "Check the run with `fmritok verify` and the training's "
                     "losses, or leave the run out with --where.")
        )  # fmt: skip


def _encoder_of(
    found: Checkpoint | ModelFolder, config: Config, layout: TokenLayout, *, loaded: bool
) -> tuple[TokenTransformer, int]:
    """Build an encoder with its own or with new weights; return it and the frames it sees."""
    if isinstance(found, ModelFolder):
        encoder = TokenTransformer(config.model, layout)
        if loaded:
            found.load_weights(encoder)
        return encoder, found.window
    model = build_objective(config, layout)
    if loaded:
        found.load_weights(model)
    return model.features, model.window


def _saved_group(checkpoint: Checkpoint | ModelFolder, group: TokenGroup | None) -> SavedGroup:
    """Return the meaning of a training's tokens; older checkpoints need the store for it."""
    if isinstance(checkpoint, ModelFolder):
        return checkpoint.group
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
