"""Checkpoints: folders that are there whole or not at all, and hold no pickle.

``RUN/checkpoints/step-00000100/`` has ``model.safetensors``, ``optimizer.safetensors`` (AdamW's
state under parameter names) and ``state.json`` (position, configuration, what the tokens are).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fmritok.pipeline.errors import expected
from fmritok.pipeline.store.difference import first_difference
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.faults import writing
from fmritok.trainer.sharding import WholeTensors, share_like

__all__ = [
    "find_checkpoint",
    "list_checkpoints",
    "load_optimizer",
    "load_weights",
    "read_state",
    "refuse_another",
    "run_folder",
    "save_checkpoint",
    "weights_sha256",
]

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_FORMAT = "fmritok checkpoint 1"
_NAME = re.compile(r"step-(\d{8,})")


def save_checkpoint(
    run: Path, tensors: WholeTensors, state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write a checkpoint that exists whole or not at all, and drop all but the last ``keep``.

    Parameters
    ----------
    run : Path
        Folder of the training.
    tensors : WholeTensors
    state : dict
        JSON-able, with ``step``.
    keep : int

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    CheckpointError
        If the disk refuses it (full, read-only, gone); earlier checkpoints are as they were.
    """
    folder = run / "checkpoints"
    target = folder / f"step-{state['step']:08d}"
    partial = folder / f".{target.name}.partial"
    then = f"Then go on with --resume {run}, or start again if it has no checkpoint."
    with writing("Checkpoint", target, then=then, kind=CheckpointError):
        folder.mkdir(exist_ok=True)  # not its parent: a run's folder that is gone stays gone
        for leftover in folder.glob(".*"):  # of a process that was killed here
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            save_file(tensors.weights, partial / _MODEL, metadata={"format": "pt"})
            save_file(tensors.moments, partial / _OPTIMIZER, metadata={"format": "pt"})
            (partial / _STATE).write_text(json.dumps({"format": _FORMAT, **state}, indent=1))
            for path in (*partial.iterdir(), partial):
                _sync(path)
            _put_in_place(partial, target)
        except (OSError, SafetensorError):
            shutil.rmtree(partial, ignore_errors=True)  # make room
            raise
        _sync(folder)
        for old in list_checkpoints(run)[:-keep]:
            _remove(old)
    return target


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's whole checkpoints, oldest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint's folder, given it or its run's folder (then the latest).

    Raises
    ------
    CheckpointError
        If there is none; weights without a state are told apart.
    """
    if (path / _STATE).is_file():
        return path
    checkpoints = list_checkpoints(path)
    if checkpoints:
        return checkpoints[-1]
    next_step = "Check the path."
    if path.suffix == ".safetensors" or (path / _MODEL).is_file():
        next_step = "These are weights alone: start a new training from them with --init-from."
    got = "no checkpoint in it" if path.exists() else "nothing"
    wanted = "a folder that `fmritok train` wrote, or one of its checkpoints"
    raise CheckpointError(expected("Checkpoint", path, wanted, got, next_step))


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    return checkpoint.absolute().parent.parent


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return what ``state.json`` holds."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            expected("Checkpoint", checkpoint, "a readable state.json", error, "Use another one.")
        ) from error
    if state.get("format") != _FORMAT:
        raise CheckpointError(
            expected("Checkpoint", checkpoint, f"format {_FORMAT!r}", repr(state.get("format")),
                     "Use the fmritok release that wrote it.")
        )  # fmt: skip
    return state


def refuse_another(
    checkpoint: Path, what: str, saved: Mapping[str, Any], now: Mapping[str, Any], next_step: str
) -> None:
    """Refuse to resume with something else than was saved, naming the first field that differs.

    Raises
    ------
    CheckpointError
    """
    difference = first_difference(json.loads(json.dumps(saved)), json.loads(json.dumps(now)))
    if difference is not None:
        name, before, after = difference
        raise CheckpointError(
            expected(f"{what} for resuming", checkpoint, f"{name} = {before!r} (as it was saved)",
                     repr(after), next_step)
        )  # fmt: skip


def load_weights(path: Path, model: nn.Module) -> None:
    """Load weights from a safetensors file, a checkpoint, or the latest checkpoint of a run.

    Raises
    ------
    CheckpointError
        If they do not fit the model; the first tensor that does not is named.
    """
    file = path if path.is_file() else find_checkpoint(path) / _MODEL
    found, wanted = _read_tensors(file), model.state_dict()
    for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
        shapes = [tuple(x[name].shape) if name in x else "none" for x in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                expected("Weights", file, f"{name} of shape {shapes[0]}", shapes[1],
                         "Choose the recipe and the token group that they were trained with.")
            )  # fmt: skip
    model.load_state_dict(found)


def weights_sha256(checkpoint: Path) -> str:
    """Return the checksum of a checkpoint's weights."""
    with (checkpoint / _MODEL).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's AdamW state back, by parameter names."""
    found = _read_tensors(checkpoint / _OPTIMIZER)
    for name, parameter in model.named_parameters():
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensor = found.get(f"{key}.{name}")
            if tensor is not None:
                if key != "step":
                    state[key] = share_like(tensor, parameter)
                else:  # AdamW counts its steps on the CPU, its fused kernel with the weights
                    fused = optimizer.defaults["fused"]
                    state[key] = tensor.to(parameter.device) if fused else tensor
        if state:
            optimizer.state[parameter] = state


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            expected("Weights", file, "a safetensors file", error, "Use another checkpoint.")
        ) from error


def _put_in_place(partial: Path, target: Path) -> None:
    """Give a whole checkpoint its name; one that has the name already goes, but not before."""
    if not target.exists():
        partial.rename(target)
        return
    hidden = target.rename(target.with_name(f".{target.name}.removed"))
    try:
        partial.rename(target)
    except OSError:
        hidden.rename(target)
        raise
    shutil.rmtree(hidden, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that nobody ever sees half of it."""
    with suppress(FileNotFoundError):  # somebody else deleted it
        hidden = folder.rename(folder.with_name(f".{folder.name}.removed"))
        shutil.rmtree(hidden, ignore_errors=True)  # what is left goes with the next checkpoint


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
