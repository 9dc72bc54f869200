"""Load the encoder of a training and embed runs with it, without a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmritok.device import choose_device
from fmritok.errors import expected
from fmritok.pipeline.store.precision import StoredRun, store_precision
from fmritok.pipeline.tokenization.one_run import TokenizedRun, tokenize
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import FrozenEncoder
from fmritok.trainer.evaluation.features import load_encoder as load_frozen
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = ["Embedding", "Encoder", "load_encoder"]


@dataclass(frozen=True, eq=False)
class Embedding:
    """Embedding of one run, window by window.

    Attributes
    ----------
    cls : np.ndarray of shape (n_windows, width), float32
        CLS token.
    registers : np.ndarray of shape (n_windows, n_registers, width), float32
    tokens : np.ndarray of shape (n_windows, n_patches, n_cells, width), float32
    pooled : np.ndarray of shape (2 * width,), float32
        Mean of all tokens, then CLS, averaged over the windows: the features of ``fmritok probe``.
    start : np.ndarray of shape (n_windows,), float64
        Time from the run's first frame to each window's first frame, s.
    times : np.ndarray of shape (n_patches,), float32
        Time from a window's first frame to each patch, s.
    """

    cls: npt.NDArray[np.float32]
    registers: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]
    start: npt.NDArray[np.float64]
    times: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.cls)

    def __repr__(self) -> str:
        windows, patches, cells, width = self.tokens.shape
        return f"Embedding({windows} windows of {patches} x {cells} tokens, {width} features)"


class Encoder:
    """The frozen encoder of a training.

    Attributes
    ----------
    group : SavedGroup
        Meaning of the tokens it was trained on.
    window : int
        Frames of a window.
    width : int
        Features of a token.
    source : dict
        Checkpoint, step and checksum of the weights.
    """

    def __init__(self, frozen: FrozenEncoder, device: torch.device) -> None:
        self._model, self._device = frozen.encoder.to(device), device
        self.group: SavedGroup = frozen.group
        self.window = frozen.window
        self.width = frozen.config.model.width
        self.source = frozen.source

    def __repr__(self) -> str:
        return (
            f"Encoder({self.group.name}: windows of {self.window} frames, {self.width} features, "
            f"step {self.source.get('step')})"
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the training's tokens, with the same options.

        Raises
        ------
        CheckpointError
            If the checkpoint has no options because its store is of an older release.
        """
        options = self.group.notes.get("options")
        if options is None:
            raise CheckpointError(
                expected("Tokenizer", f"of {self.source.get('checkpoint')}",
                         "its options in the checkpoint", "none: its store is of an older release",
                         "Give embed a tokenizer that you built.")
            )  # fmt: skip
        return build_tokenizer(str(self.group.provenance["tokenizer"]), options)

    def embed(
        self,
        source: Any,
        *,
        tr: float | None = None,
        right: str | PathLike[str] | None = None,
        warp: str | PathLike[str] | None = None,
        mask: str | PathLike[str] | None = None,
        affine: npt.ArrayLike | None = None,
        tokenizer: Tokenizer | None = None,
        batch_size: int = 16,
        scratch: Path | None = None,
    ) -> Embedding:
        """Tokenize and encode one run.

        Windows follow each other from the first frame on. The last one ends with the run and may
        overlap the one before. A run shorter than a window is one window.

        Parameters
        ----------
        source : path, nibabel image, np.ndarray or TokenizedRun
            See :func:`fmritok.tokenize`.
        tr, right, warp, mask, affine, scratch
            See :func:`fmritok.tokenize`.
        tokenizer : Tokenizer, optional
            Default: :attr:`tokenizer`.
        batch_size : int
            Windows encoded at once.

        Returns
        -------
        Embedding

        Raises
        ------
        CheckpointError
            If the run is tokenized otherwise than in training; names the first field that
            differs.
        RunError
            If the run cannot be read or tokenized.
        """
        run = source
        if not isinstance(source, TokenizedRun):
            run = tokenize(
                source, tokenizer or self.tokenizer, tr=tr, right=right, warp=warp, mask=mask,
                affine=affine, scratch=scratch,
            )  # fmt: skip
        n_frames, n_tokens, dim = run.values.shape
        contract = {"tokens_per_frame": n_tokens, "dim": dim, "provenance": run.provenance}
        self.group.refuse_others(contract, self.source.get("checkpoint"))
        # Round as the store does: the encoder was trained on rounded tokens.
        stored = store_precision(run.values, self.group.precision)  # type: ignore[arg-type]
        starts = _starts(n_frames, self.window)
        parts = list(self._encode(stored, run.tr, starts, batch_size))
        cls, registers, tokens = (torch.cat([part[i] for part in parts]).numpy() for i in range(3))
        times = parts[0][3].numpy()
        pooled = np.concatenate([tokens.mean((0, 1, 2)), cls.mean(0)])
        return Embedding(cls, registers, tokens, pooled, np.array(starts) * run.tr, times)

    def _encode(
        self, stored: StoredRun, tr: float, starts: list[int], batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield CLS, registers, tokens and patch times, batch by batch."""
        length = min(self.window, len(stored.tokens))
        for low in range(0, len(starts), batch_size):
            chosen = starts[low : low + batch_size]
            batch = _batch(stored, tr, chosen, length).to(self._device)
            with torch.no_grad():
                inputs = self._model.inputs(batch)
                encoded = self._model(
                    self._model.embed(inputs.patches), inputs.static, inputs.times, inputs.valid
                )
            yield (
                encoded.cls.float().cpu(),
                encoded.registers.float().cpu(),
                encoded.tokens.float().cpu(),
                inputs.times[0].cpu(),
            )


def load_encoder(training: str | PathLike[str], *, device: str | torch.device = "cpu") -> Encoder:
    """Load the encoder of a training without a store.

    Parameters
    ----------
    training : path
        Folder of a training (its latest checkpoint), or one of its checkpoints.
    device : str or torch.device
        ``auto`` is a GPU if there is one.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, it is damaged, or an older release wrote it without the meaning
        of its tokens.
    """
    return Encoder(load_frozen(Path(training)), choose_device(str(device)))


def _starts(n_frames: int, window: int) -> list[int]:
    """Return the first frames of the windows of a run."""
    starts = list(range(0, max(n_frames - window, 0) + 1, window))
    if starts[-1] + window < n_frames:
        starts.append(n_frames - window)
    return starts


def _batch(stored: StoredRun, tr: float, starts: list[int], length: int) -> Batch:
    """Make a batch of windows of one run."""
    n = len(starts)

    def same(values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).expand(n, *values.shape)

    tokens = np.stack([stored.tokens[first : first + length] for first in starts])
    times = (tr * np.arange(length)).astype(np.float32)
    return Batch(
        tokens=torch.from_numpy(tokens),
        mean=same(stored.mean),
        std=same(stored.std),
        scale=None if stored.scale is None else same(stored.scale),
        times=same(times),
        valid=None,
        runs=torch.zeros(n, dtype=torch.int64),
        draws=torch.zeros(n, dtype=torch.int64),
        epoch=0,
        seen=n,
        n_frames=n * length,
    )
