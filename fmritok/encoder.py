"""Load the encoder of a training and embed runs with it, without a store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

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
from fmritok.tokenizers.spaces import SampleSpace
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import FrozenEncoder, following_windows
from fmritok.trainer.evaluation.features import load_encoder as load_frozen
from fmritok.trainer.evaluation.run_windows import EncodedRuns, WindowEncoder, run_windows
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


class _Run(NamedTuple):
    """Tokens of one run in their stored form."""

    stored: StoredRun
    tr: float


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
    module : WindowEncoder
        The encoder as a ``torch.nn.Module`` in evaluation mode. It takes stacked :meth:`windows`;
        gradients flow through it.
    """

    def __init__(self, frozen: FrozenEncoder, device: torch.device) -> None:
        self.module = WindowEncoder(frozen.encoder).eval().to(device)
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
        space: SampleSpace | None = None,
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
        tr, right, warp, mask, affine, space, scratch
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
        run = self._tokens(
            source, tokenizer, tr=tr, right=right, warp=warp, mask=mask, affine=affine,
            space=space, scratch=scratch,
        )  # fmt: skip
        places = following_windows(len(run.stored.tokens), window=self.window)
        starts = [first for first, _ in places]
        parts = [
            self._encoded(run, starts[low : low + batch_size], places[0][1])
            for low in range(0, len(starts), batch_size)
        ]
        cls, registers, tokens = (
            np.concatenate([getattr(part, name)[0].float().cpu().numpy() for part in parts])
            for name in ("cls", "registers", "tokens")
        )
        pooled = np.concatenate([tokens.mean((0, 1, 2)), cls.mean(0)])
        times = parts[0].times[0, 0].cpu().numpy()
        return Embedding(cls, registers, tokens, pooled, np.array(starts) * run.tr, times)

    def windows(
        self,
        source: Any,
        *,
        count: int,
        tokenizer: Tokenizer | None = None,
        **how: Any,
    ) -> dict[str, Tensor]:
        """Tokenize one run, and return evenly spread windows of it for :attr:`module`.

        Windows overlap if the run is short. If it is shorter than a window, the end of all windows
        is padding.

        Parameters
        ----------
        source : path, nibabel image, np.ndarray or TokenizedRun
            See :func:`fmritok.tokenize`.
        count : int
            Number of windows.
        tokenizer : Tokenizer, optional
            Default: :attr:`tokenizer`.
        **how
            ``tr``, ``right``, ``warp``, ``mask``, ``affine``, ``space``, ``scratch``: see
            :func:`fmritok.tokenize`.

        Returns
        -------
        dict of str to torch.Tensor
            Equal shapes for all runs: ``torch.utils.data.default_collate`` stacks them.

        Raises
        ------
        CheckpointError, RunError
            As :meth:`embed`.
        """
        run = self._tokens(source, tokenizer, **how)
        last = max(len(run.stored.tokens) - self.window, 0)
        starts = np.linspace(0, last, count).round().astype(int).tolist()
        return run_windows(run.stored, run.tr, starts, self.window)

    def _tokens(self, source: Any, tokenizer: Tokenizer | None, **how: Any) -> _Run:
        """Tokenize a run as in training, and round as the store does."""
        run = source
        if not isinstance(source, TokenizedRun):
            run = tokenize(source, tokenizer or self.tokenizer, **how)
        _, n_tokens, dim = run.values.shape
        contract = {"tokens_per_frame": n_tokens, "dim": dim, "provenance": run.provenance}
        self.group.refuse_others(contract, self.source.get("checkpoint"))
        precision = self.group.precision
        return _Run(store_precision(run.values, precision), run.tr)  # type: ignore[arg-type]

    def _encoded(self, run: _Run, starts: list[int], length: int) -> EncodedRuns:
        windows = run_windows(run.stored, run.tr, starts, length)
        with torch.no_grad():
            encoded: EncodedRuns = self.module({name: x[None] for name, x in windows.items()})
        return encoded


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
