"""Load the tensors of a checkpoint into a model and its optimizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.parallel.sharding import share_like

__all__ = ["damaged", "load_optimizer_state", "load_tensors", "load_weights", "step_of"]

_NAME = re.compile(r"step-(\d{8,})")
_STATES = ("step", "exp_avg", "exp_avg_sq")


def load_weights(file: Path, model: nn.Module) -> None:
    """Load the weights of a safetensors file into a model.

    Raises
    ------
    CheckpointError
        If they do not fit the model; names the first tensor that does not fit.
    """
    load_tensors(
        _read(file), model, file,
        then="Choose the recipe and the token group that they were trained with.",
    )  # fmt: skip


def load_tensors(
    found: Mapping[str, torch.Tensor], model: nn.Module, where: object, *, then: str
) -> None:
    """Load named tensors into a model.

    Parameters
    ----------
    found : mapping of str to torch.Tensor
    model : torch.nn.Module
    where : object
        File of the tensors, for the message.
    then : str
        Next step, for the message.

    Raises
    ------
    CheckpointError
        Naming the first tensor that is missing, has another shape, or is not in the model.
    """
    wanted = model.state_dict()
    for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
        shapes = [tuple(x[name].shape) if name in x else "none" for x in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                expected("Weights", where, f"{name} of shape {shapes[0]}", shapes[1], then)
            )
    model.load_state_dict(dict(found))


def load_optimizer_state(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, lacking: bool
) -> None:
    """Load the state of AdamW, by parameter names.

    Parameters
    ----------
    file : Path
    model : torch.nn.Module
    optimizer : torch.optim.AdamW
    lacking : bool
        Whether parameters may lack a state, as before their first gradient.

    Raises
    ------
    CheckpointError
        If it does not fit the model; names the first tensor that does not fit.
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
            else:  # the step counter is on the CPU; fused AdamW keeps it with the weights
                state[key] = tensor.to(parameter.device) if fused else tensor
        optimizer.state[parameter] = state
    if found:
        raise damaged(file, "optimizer state of this model's weights only", min(found))


def step_of(path: Path) -> int | None:
    """Return the step in the name of a checkpoint; None for other names."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else int(found[1])


def damaged(file: Path, wanted: str, got: object) -> CheckpointError:
    """Make the error of a damaged file; it suggests an earlier checkpoint if there is one."""
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
