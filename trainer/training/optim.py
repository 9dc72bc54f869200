"""AdamW, its learning rate and its weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fmritok.trainer.config import Decay, OptimConfig

__all__ = [
    "build_optimizer",
    "decayed_weights",
    "learning_rate",
    "parameter_groups",
    "weight_decay",
]

_NORMS = (nn.LayerNorm, nn.RMSNorm)
#: Also biases and layer scale: these names in any module.
_NOT_DECAYED = ("bias", "scales", "offsets")


def decayed_weights(model: nn.Module, decay: Decay = "matrices") -> set[Tensor]:
    """Return the weights that decay.

    Parameters
    ----------
    model : torch.nn.Module
    decay : {"matrices", "no_norms", "all"}
        ``matrices``: those of linear and dense layers. ``no_norms``: all but biases, norms and
        layer scale; positions, CLS and mask vector decay, too. ``all``: all.
    """
    if decay == "all":
        return set(model.parameters())
    if decay == "no_norms":
        norms = {p for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters()}
        return {
            parameter
            for name, parameter in model.named_parameters()
            if name.rpartition(".")[2] not in _NOT_DECAYED and parameter not in norms
        }
    layers = (nn.Linear, nn.Conv1d)
    return {module.weight for module in model.modules() if isinstance(module, layers)}


def parameter_groups(model: nn.Module, decay: Decay = "matrices") -> list[dict[str, Any]]:
    """Divide the trained parameters of a model into decayed ones and others; no empty group."""
    decayed = decayed_weights(model, decay)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if (p in decayed) == chosen], "decayed": chosen,
         "scale": 1.0}
        for chosen in (True, False)
    ]  # fmt: skip
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW.

    Parameters
    ----------
    groups : list of dict
        Parameters, whether they are ``decayed``, and ``scale``, their share of the learning rate.
    config : OptimConfig
    """
    settings = [
        {**group, "weight_decay": config.weight_decay if group["decayed"] else 0.0}
        for group in groups
    ]
    first = next(parameter for group in groups for parameter in group["params"])
    return torch.optim.AdamW(
        settings,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True if first.is_cuda else None,
    )


def learning_rate(config: OptimConfig, step: int, n_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay.

    With ``config.from_zero``, the first step has rate 0. The rate ends one step after the last one.

    Parameters
    ----------
    config : OptimConfig
    step : int
        From 0 to ``n_steps - 1``.
    n_steps : int
    """
    warmup = round(config.warmup * n_steps)
    if step < warmup:
        from_zero = config.from_zero
        return config.lr * (step / warmup if from_zero else (step + 1) / (warmup + 1))
    done = (step - warmup) / max(_last(config, n_steps) - warmup, 1)
    share = config.final_lr_ratio + (1 - config.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
    return config.lr * share


def weight_decay(config: OptimConfig, step: int, n_steps: int) -> float:
    """Return the weight decay of a step: half a cosine from the first to the final value."""
    if config.final_weight_decay is None:
        return config.weight_decay
    done = step / max(_last(config, n_steps), 1)
    span = config.weight_decay - config.final_weight_decay
    return config.final_weight_decay + span * (1 + math.cos(math.pi * done)) / 2


def _last(config: OptimConfig, n_steps: int) -> int:
    """Return the step at which schedules end."""
    return n_steps if config.from_zero else n_steps - 1
