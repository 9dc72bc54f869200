"""Tensors of a checkpoint's files, put where a model and its optimizer need them."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.training.sharding import share_like

__all__ = ["damaged", "load_optimizer_state", "load_weights", "step_of"]

_NAME = re.compile(r"step-(\d{8,})")
_STATES = ("step", "exp_avg", "exp_avg_sq")


def load_weights(file: Path, model: nn.Module) -> None:
    """Put the weights of a safetensors file into a model.

    Raises
    ------
    CheckpointError
        If they do not fit the model; the first tensor that does not is named.
    """
    found, wanted = _read(file), model.state_dict()
    for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
        shapes = [tuple(x[name].shape) if name in x else "none" for x in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                expected("Weights", file, f"{name} of shape {shapes[0]}", shapes[1],
                         "Choose the recipe and the token group that they were trained with.")
            )  # fmt: skip
    model.load_state_dict(found)


def load_optimizer_state(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, lacking: bool
) -> None:
    """Put AdamW's state back, by parameter names.

    Parameters
    ----------
    file : Path
    model : torch.nn.Module
    optimizer : torch.optim.AdamW
    lacking : bool
        Whether parameters may be without state, as they are before their first gradient.

    Raises
    ------
    CheckpointError
        If it does not fit the model; the first tensor that does not is named.
    """
    found = _read(file)
    fused = optimizer.defaults["fused"]
    for name, parameter in model.named_parameters():
        tensors = {key: found.pop(f"{key}.{name}", None) for key in _STATES}
        may_lack = lacking or not parameter.requires_grad
        if may_lack and all(tensor is None for tensor in tensors.values()):
            continue
        state = {}
        for key, tensor in tensors.items():
            wanted = () if key == "step" else tuple(parameter.shape)
            if tensor is None or tuple(tensor.shape) != wanted:
                got = "none" if tensor is None else tuple(tensor.shape)
                raise damaged(file, f"{key}.{name} of shape {wanted}", got)
            if key != "step":
                state[key] = share_like(tensor, parameter)
            else:  # AdamW counts its steps on the CPU, its fused kernel with the weights
                state[key] = tensor.to(parameter.device) if fused else tensor
        optimizer.state[parameter] = state
    if found:
        raise damaged(file, "moments of the model's weights alone", min(found))


def step_of(path: Path) -> int | None:
    """Return the step that a checkpoint's name tells; None for other names."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else int(found[1])


def damaged(file: Path, wanted: str, got: object) -> CheckpointError:
    """Make the error of a damaged file; its next step is an earlier checkpoint, if there is one."""
    own = step_of(file.parent) or 0
    steps = {step_of(path) or own: path for path in file.parent.parent.glob("step-*")}
    earlier = [path for step, path in sorted(steps.items()) if step < own]
    next_step = "It is damaged: restore it from a copy, or start again."
    if earlier:
        next_step = f"It is damaged: use the earlier {earlier[-1]}, or a copy."
    return CheckpointError(expected("Checkpoint file", file, wanted, got, next_step))


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise damaged(file, "a safetensors file", error) from error
