"""Which weights of a model are trained, and how fast: head, last layers, LoRA, layer-wise decay."""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.config import Decay, require
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.finetuning.config import WeightsConfig
from fmritok.trainer.finetuning.model import Classifier
from fmritok.trainer.training.optim import decayed_weights

__all__ = ["choose_trained", "layered_groups", "trained_state", "whole_state"]

_LINEAR = ("query", "key_value", "output", "inner", "outer")


def choose_trained(model: Classifier, config: WeightsConfig) -> None:
    """Freeze what is not trained, and add adapters and dropout; the head is always trained.

    Raises
    ------
    ConfigError
        If there are fewer layers than are to be trained, or peft is not installed.
    """
    encoder = model.encoder
    if config.train != "all":
        encoder.requires_grad_(False)
    if config.train == "last":
        layers = len(encoder.blocks)
        fits = config.last_layers <= layers
        wanted = f"at most the {counted(layers, 'layer')}"
        require(fits, "weights.last_layers", wanted, config.last_layers)
        encoder.blocks[-config.last_layers :].requires_grad_(True)
        encoder.final_norm.requires_grad_(True)
    elif config.train == "lora":
        _add_adapters(encoder.blocks, config)
    if config.dropout:
        for name, part in encoder.blocks.named_modules():
            if name.endswith((".attention", ".mlp")):
                part.register_forward_hook(_Dropout(config.dropout))


def layered_groups(
    model: Classifier, layer_decay: float, decay: Decay = "matrices"
) -> list[dict[str, Any]]:
    """Group the trained parameters by their share of the learning rate, and by weight decay.

    The head and the final norm have the whole rate, each layer ``layer_decay`` of the next one's,
    and the embeddings that of the first layer. ``decay`` is ``optim.decay``.
    """
    layers, decayed = len(model.encoder.blocks), decayed_weights(model, decay)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = _depth(name, layers), parameter in decayed
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "decayed": chosen, "scale": layer_decay ** (layers + 1 - depth)}
        for (depth, chosen), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights that are trained, by name."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights under the names of a model without adapters, adapters added up."""
    found = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, value in found.items():
        if ".lora_" not in name:
            state[name.replace(".base_layer.", ".")] = value.clone()
    for name, part in model.named_modules():
        if hasattr(part, "get_delta_weight"):
            state[f"{name}.weight"] += part.get_delta_weight("default").detach().cpu()
    return state


class _Dropout:
    """A hook that drops features of a module's output while it is trained."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return F.dropout(output, self.share, module.training)


def _add_adapters(blocks: nn.Module, config: WeightsConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            expected("Option", "weights.train=lora", "the package peft", f"none ({error.name})",
                     "Install it with `pip install 'fmritok[lora]'`, or choose --weights last.")
        ) from error  # fmt: skip
    adapters = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(_LINEAR),
    )
    inject_adapter_in_model(adapters, blocks)


def _depth(name: str, layers: int) -> int:
    """Return 0 for embeddings, the number of a layer from 1 on, and one more for what follows."""
    layer = re.match(r"encoder\.blocks\.(\d+)\.", name)
    if layer:
        return int(layer[1]) + 1
    return layers + 1 if name.startswith(("head.", "encoder.final_norm.")) else 0
