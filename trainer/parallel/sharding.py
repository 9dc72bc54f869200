"""One model sharded over processes (FSDP): each holds a share of all weights and moments.

The weights of a layer are gathered just before its use, and freed after it. Checkpoints hold whole
tensors, which any number of processes can load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fmritok.trainer.model.blocks import Block

__all__ = [
    "WholeTensors", "exchanging_gradients", "shard_model", "share_like", "whole", "whole_tensors",
]  # fmt: skip


class WholeTensors(NamedTuple):
    """Tensors of a checkpoint; empty in processes that do not keep them."""

    weights: dict[str, Tensor]
    """by name"""
    moments: dict[str, Tensor]
    """AdamW's state, by its key and the name of the weight: ``exp_avg.head.bias``"""


def shard_model(model: nn.Module, device: torch.device, size: int, *, bf16: bool = False) -> None:
    """Shard a model over all processes in place: each layer, then the remaining weights.

    Parameters
    ----------
    model : torch.nn.Module
        Model on the CPU with the same weights in every process. It never is whole on the device.
    device : torch.device
        Device of this process's share.
    size : int
        Number of processes.
    bf16 : bool
        Send the weights of layers as bfloat16, which their products use: half of the traffic.
        Shares, gradients and all other weights stay float32.
    """
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if bf16:
        policy = replace(policy, param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mesh = init_device_mesh(device.type, (size,))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    # Reshard after the forward pass, like the layers. Otherwise the weights would stay gathered
    # after a validation, and the next checkpoint would lack them.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


@contextmanager
def exchanging_gradients(model: nn.Module, now: bool) -> Iterator[None]:
    """Sum gradients over the processes in this backward pass, or without ``now`` in a later one."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
        yield
    elif isinstance(model, DistributedDataParallel) and not now:
        with model.no_sync():
            yield
    else:
        yield


def whole(x: Tensor) -> Tensor:
    """Gather a tensor from the shares of all processes. All of them have to call this."""
    together: Tensor = x.full_tensor() if isinstance(x, DTensor) else x
    return together


def share_like(x: Tensor, like: Tensor) -> Tensor:
    """Move a whole tensor to the device of ``like``, and shard it in the same way."""
    x = x.to(like.device)
    if not isinstance(like, DTensor):
        return x
    share = distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(share)  # the share is a view of the whole tensor


def whole_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> WholeTensors:
    """Gather weights and moments, one tensor at a time.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.AdamW
    keep : bool
        False in processes that take part, but do not need the result.
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
            if keep:  # on the CPU: the device may be too small for all tensors
                part[name] = together.cpu() if shared else together
    return tensors
