"""Write and read one checkpoint: an atomic folder with checksums and without pickle.

================================  =================================================================
``model.safetensors``             the weights
``optimizer.safetensors``         AdamW's state, under parameter names
``tokens.safetensors``            meaning of the tokens: contract, options, static arrays
``runs.json``                     the split: ids of the runs, each with the checksum of its tokens
``metrics.jsonl``                 metrics of all steps so far
``state.json``                    position, configuration, contract of the tokens; sha256 of the
                                  other files, and its own digest
================================  =================================================================

Checkpoints of format 1 (release 0.1.0) have weights, optimizer and state, without checksums.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from fmritok.errors import expected
from fmritok.pipeline.store.disk import sync_folder
from fmritok.pipeline.store.documents.seal import canonical_json
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.parallel.sharding import WholeTensors
from fmritok.trainer.record.encoder_folder import WEIGHTS, EncoderFolder
from fmritok.trainer.record.sealed_files import SealedFiles, file_sha256, fits_digest, with_digest
from fmritok.trainer.record.tensor_files import damaged, load_optimizer_state, step_of

__all__ = [
    "METRICS",
    "REPLACED",
    "RUNS",
    "TOKENS",
    "Checkpoint",
    "is_checkpoint",
    "write_checkpoint",
]

_logger = logging.getLogger(__name__)

_OPTIMIZER, _STATE = "optimizer.safetensors", "state.json"
RUNS, METRICS, TOKENS = "runs.json", "metrics.jsonl", "tokens.safetensors"
#: Suffix of a checkpoint while a new one replaces it.
REPLACED = ".replaced"
_FORMAT, _FORMAT_1 = "fmritok checkpoint 2", "fmritok checkpoint 1"
#: Required fields of a state of format 1.
_FIELDS = {"step": int, "position": dict, "config": dict, "group": dict, "split": str}


def write_checkpoint(
    target: Path, tensors: WholeTensors, state: Mapping[str, Any], texts: Mapping[str, bytes]
) -> None:
    """Write a checkpoint to a temporary folder, flush it, and rename it.

    Parameters
    ----------
    target : Path
        Final folder. An existing checkpoint is replaced.
    tensors : WholeTensors
    state : dict
        JSON-able, with ``step``.
    texts : dict of str to bytes
        The other files, by name.

    Raises
    ------
    OSError, SafetensorError
        If the disk refuses; an existing checkpoint is unchanged.
    """
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir()
    try:
        save_file(tensors.weights, partial / WEIGHTS, metadata={"format": "pt"})
        save_file(tensors.moments, partial / _OPTIMIZER, metadata={"format": "pt"})
        for name, data in texts.items():
            (partial / name).write_bytes(data)
        whole = {"format": _FORMAT, **state}
        whole["files"] = {path.name: file_sha256(path) for path in sorted(partial.iterdir())}
        (partial / _STATE).write_bytes(canonical_json(with_digest(whole)))
        for path in (*partial.iterdir(), partial):
            sync_folder(path)
        _put_in_place(partial, target)
    except (OSError, SafetensorError):
        shutil.rmtree(partial, ignore_errors=True)  # make room
        raise
    sync_folder(target.parent)


def is_checkpoint(path: Path) -> bool:
    """Tell whether a path names a checkpoint, complete or not."""
    return (path / _STATE).is_file() or (path.is_dir() and step_of(path) is not None)


@dataclass(frozen=True)
class Checkpoint(EncoderFolder):
    """A checkpoint; its state is the content of ``state.json``."""

    config_key: ClassVar[str] = "config"
    config_name: ClassVar[str] = "Configuration of checkpoint"

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read the state of a checkpoint.

        Raises
        ------
        CheckpointError
            If it is missing, damaged, or of a format that this release does not know.
        """
        file = folder / _STATE
        if not file.is_file():  # opening a pipe would block
            raise damaged(file, "the state of a checkpoint", "nothing")
        try:
            data = file.read_bytes()
            state = json.loads(data)
            kind = state.get("format")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            got = error.strerror if isinstance(error, OSError) else "something else"
            raise damaged(file, "the state of a checkpoint, as JSON", got) from error
        if kind not in (_FORMAT, _FORMAT_1):
            raise CheckpointError(
                expected("Checkpoint", folder, f"format {_FORMAT!r}", repr(kind),
                         "Use the fmritok release that wrote it.")
            )  # fmt: skip
        if kind == _FORMAT_1:
            intact = "digest" not in state and all(
                isinstance(state.get(name), kind_of) for name, kind_of in _FIELDS.items()
            )
            _logger.warning(
                "%s was written by fmritok 0.1: it has no checksums. Its files and tokens were not "
                "checked", folder,
            )  # fmt: skip
        else:
            intact = canonical_json(state) == data and fits_digest(state)
        if not intact or step_of(folder) not in (None, state["step"]):
            raise damaged(file, "a state that matches its digest and the step", "another")
        return cls(folder, state, SealedFiles(folder, state.get("files"), _STATE, damaged))

    @property
    def training(self) -> Path:
        """The folder of its training; for a copy outside of one, the checkpoint itself."""
        parent = self.folder.absolute().parent
        return parent.parent if parent.name == "checkpoints" else self.folder.absolute()

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])

    @property
    def is_sealed(self) -> bool:
        """Whether it has checksums (format 2)."""
        return "files" in self.state

    def check(self) -> None:
        """Check all files.

        Raises
        ------
        CheckpointError
            Naming the first file that is missing or differs from its checksum.
        """
        for name in self.state["files"] if self.is_sealed else (WEIGHTS, _OPTIMIZER):
            self.files.path(name)

    def has(self, name: str) -> bool:
        """Tell whether it has a file of this name."""
        return name in self.state.get("files", {})

    def read_bytes(self, name: str) -> bytes:
        """Return the checked content of a file."""
        return self.files.path(name).read_bytes()

    def load_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load the state of AdamW, by parameter names.

        Raises
        ------
        CheckpointError
            If it is damaged, or does not fit the model.
        """
        # Parameters that never had a gradient have no state. Format 1 cannot tell this from damage.
        lacking = self.is_sealed or not self.step
        load_optimizer_state(self.files.path(_OPTIMIZER), model, optimizer, lacking=lacking)


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename a complete checkpoint; remove an older one of that name afterwards."""
    if not target.exists():
        partial.rename(target)
        return
    hidden = target.rename(target.with_name(f".{target.name}{REPLACED}"))
    try:
        partial.rename(target)
    except OSError:
        hidden.rename(target)
        raise
    shutil.rmtree(hidden, ignore_errors=True)
