"""One model divided among processes (FSDP): each holds a share of all weights and moments.

Every layer is put together from all shares just before it is used, and taken apart after it. Files
hold whole tensors and are independent of the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fmritok.trainer.model.blocks import Block

__all__ = [
    "WholeTensors", "exchanging_gradients", "shard_model", "share_like", "whole", "whole_tensors",
]  # fmt: skip


class WholeTensors(NamedTuple):
    """What a checkpoint holds; empty in a process that was not to keep it."""

    weights: dict[str, Tensor]
    """by name"""
    moments: dict[str, Tensor]
    """AdamW's state, by its key and the name of the weight: ``exp_avg.head.bias``"""


def shard_model(model: nn.Module, device: torch.device, size: int) -> None:
    """Divide a model among all processes in place: every layer for itself, then what is left.

    Parameters
    ----------
    model : torch.nn.Module
        With the same weights in every process; on the CPU, it is never whole on the device.
    device : torch.device
        Where this process's share goes.
    size : int
        Number of processes.
    """
    mesh = init_device_mesh(device.type, (size,))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    # Taken apart after the forward pass as the layers are: otherwise a validation would leave the
    # weights whole, and a checkpoint after it would miss them.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


@contextmanager
def exchanging_gradients(model: nn.Module, now: bool) -> Iterator[None]:
    """Let the processes add up their gradients in a backward pass, or leave it to a later one."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
        yield
    elif isinstance(model, DistributedDataParallel) and not now:
        with model.no_sync():
            yield
    else:
        yield


def whole(x: Tensor) -> Tensor:
    """Return a tensor put together from the shares of all processes, who must all ask for it."""
    together: Tensor = x.full_tensor() if isinstance(x, DTensor) else x
    return together


def share_like(x: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor where ``like`` is, and as it is divided."""
    x = x.to(like.device)
    if not isinstance(like, DTensor):
        return x
    share = distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(share)  # which was a view of the whole


def whole_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> WholeTensors:
    """Put weights and moments together, one after another.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.AdamW
    keep : bool
        False in processes that take part without wanting the result.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = WholeTensors(
        dict(model.state_dict()),
        {
            f"{key}.{names[parameter]}": value
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        },
    )
    for part in tensors:
        for name in list(part):
            shared = isinstance(part[name], DTensor)
            together = whole(part.pop(name))
            if keep:  # not on the device, which may be too small for all of them
                part[name] = together.cpu() if shared else together
    return tensors
