"""Load the encoder of a training and embed runs with it, without a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from fmritok.errors import FmritokError, expected
from fmritok.hub.saving import HubModel
from fmritok.hub.snapshots import HubError, fetched_snapshot, is_hub_id
from fmritok.pipeline.store.precision import StoredRun, store_precision
from fmritok.pipeline.tokenization.one_run import TokenizedRun, tokenize
from fmritok.quantities import counted
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.tokenizers.spaces import SampleSpace
from fmritok.trainer.errors import CheckpointError, ConfigError
from fmritok.trainer.evaluation.features import FrozenEncoder, following_windows, load_frozen
from fmritok.trainer.evaluation.run_windows import EncodedRuns, WindowEncoder, run_windows
from fmritok.trainer.pretrained.model_folder import FILES, ModelFolder
from fmritok.trainer.record.finding import find_trained
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
        return (
            f"Embedding({counted(windows, 'window')} of {patches} x {cells} tokens, "
            f"{counted(width, 'feature')})"
        )


class _Run(NamedTuple):
    """Tokens of one run in their stored form."""

    stored: StoredRun
    tr: float


class Encoder(HubModel):
    """The frozen encoder of a training, or of a model folder.

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
    license : str or None
        Identifier of the weights' licence; of a training None.
    """

    def __init__(
        self,
        frozen: FrozenEncoder,
        device: torch.device,
        *,
        options: Mapping[str, Any] | None = None,
        license: str | None = None,
    ) -> None:
        self._frozen = frozen
        self.module = WindowEncoder(frozen.encoder).eval().to(device)
        self._options, self.license = dict(options or {}), license
        self.group: SavedGroup = frozen.group
        self.window = frozen.window
        self.width = frozen.config.model.width
        self.source = frozen.source

    def __repr__(self) -> str:
        return (
            f"Encoder({self.group.name}: windows of {counted(self.window, 'frame')}, "
            f"{counted(self.width, 'feature')}, step {self.source.get('step')})"
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        options: Mapping[str, Any] | None = None,
        **hub: Any,
    ) -> Encoder:
        """Load an encoder from a folder or from the Hugging Face Hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            A folder as for :func:`load_encoder`, or the id of a hub model. A hub model is
            downloaded if it is not on this machine.
        revision : str, optional
            Commit, tag or branch of the hub model. Default: ``main``.
        device, options
            See :func:`load_encoder`.
        **hub
            Of the hub's client: ``token``, ``cache_dir``, ``force_download``,
            ``local_files_only``.

        Raises
        ------
        CheckpointError
            If it cannot be had, or is damaged.
        """
        place = Path(pretrained_model_name_or_path)
        if not place.exists() and is_hub_id(place.as_posix()):
            offline = bool(hub.pop("local_files_only", False))
            try:
                place = fetched_snapshot(
                    place.as_posix(), revision, files=FILES, offline=offline, **hub
                )
            except HubError as error:
                raise CheckpointError(
                    expected("Hub model", place.as_posix(), "an answer of the hub, or a copy on "
                             "this machine", error,
                             f"Run `fmritok fetch model {place.as_posix()}` where there is a "
                             "network.")
                ) from error  # fmt: skip
        return load_encoder(place, device=device, options=options)

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
        name, options = str(self.group.provenance["tokenizer"]), {**options, **self._options}
        try:
            tokenizer = build_tokenizer(name, options)
            tokenizer.setup()  # reads what the options name
        except FmritokError as error:
            raise CheckpointError(
                expected("Tokenizer", f"of {self.source.get('checkpoint')}",
                         f"what its options name: {json.dumps(options)}", error,
                         "Give load_encoder options with paths on this machine.")
            ) from error  # fmt: skip
        return tokenizer

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
        _check_count("batch_size", batch_size)
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
        _check_count("count", count)
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


def load_encoder(
    training: str | PathLike[str],
    *,
    device: str | torch.device = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Encoder:
    """Load an encoder without a store, and without the network.

    Parameters
    ----------
    training : path or str
        Folder of a training (its latest checkpoint), one of its checkpoints, a model folder, or
        the id of a hub model that was fetched.
    device : str or torch.device
        ``auto`` is a GPU if there is one.
    options : dict, optional
        Options of its tokenizer that differ on this machine, such as the path of the atlas. Tokens
        of another meaning are refused as ever.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, it is damaged, or an older release wrote it without the meaning
        of its tokens.
    """
    found = find_trained(Path(training))
    license = found.license if isinstance(found, ModelFolder) else None
    return Encoder(
        load_frozen(found.folder), choose_device(str(device)), options=options, license=license
    )


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(expected("Option", name, "1 or more", value, "Change it."))
