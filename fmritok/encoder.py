"""Load the encoder of a training and embed runs with it, without a store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
from fmritok.errors import FmritokError, expected
from fmritok.hub.saving import HubModel
from fmritok.hub.snapshots import HubError, fetched_snapshot, is_hub_id
from fmritok.pipeline.store.precision import StoredRun, store_precision
from fmritok.pipeline.tokenization.one_run import TokenizedRun, tokenize
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import FrozenEncoder, following_windows
from fmritok.trainer.evaluation.features import load_encoder as load_frozen
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
        return f"Embedding({windows} windows of {patches} x {cells} tokens, {width} features)"


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
        self._frozen, self._model, self._device = frozen, frozen.encoder.to(device), device
        self._options, self.license = dict(options or {}), license
        self.group: SavedGroup = frozen.group
        self.window = frozen.window
        self.width = frozen.config.model.width
        self.source = frozen.source

    def __repr__(self) -> str:
        return (
            f"Encoder({self.group.name}: windows of {self.window} frames, {self.width} features, "
            f"step {self.source.get('step')})"
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
        starts = [first for first, _ in following_windows(n_frames, window=self.window)]
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
                    self._model.embed(inputs.patches),
                    inputs.static,
                    inputs.times,
                    inputs.host_valid,
                )
            yield (
                encoded.cls.float().cpu(),
                encoded.registers.float().cpu(),
                encoded.tokens.float().cpu(),
                inputs.times[0].cpu(),
            )


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
