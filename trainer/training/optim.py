"""AdamW, its learning rate and its weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fmritok.trainer.config import OptimConfig

__all__ = [
    "build_optimizer",
    "decayed_weights",
    "learning_rate",
    "parameter_groups",
    "weight_decay",
]


def decayed_weights(model: nn.Module) -> set[Tensor]:
    """Return the weights that decay: matrices of linear and dense layers.

    Norms, biases and embeddings are not decayed. Frozen parameters are left out.
    """
    layers = (nn.Linear, nn.Conv1d)
    return {module.weight for module in model.modules() if isinstance(module, layers)}


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Divide the trained parameters of a model into decayed ones and others."""
    decayed = decayed_weights(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if (p in decayed) == chosen], "decayed": chosen,
         "scale": 1.0}
        for chosen in (True, False)
    ]  # fmt: skip


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

    Parameters
    ----------
    config : OptimConfig
    step : int
        From 0 to ``n_steps - 1``.
    n_steps : int
    """
    warmup = round(config.warmup * n_steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(n_steps - 1 - warmup, 1)
    share = config.final_lr_ratio + (1 - config.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
    return config.lr * share


def weight_decay(config: OptimConfig, step: int, n_steps: int) -> float:
    """Return the weight decay of a step: half a cosine from the first to the final value."""
    if config.final_weight_decay is None:
        return config.weight_decay
    done = step / max(n_steps - 1, 1)
    span = config.weight_decay - config.final_weight_decay
    return config.final_weight_decay + span * (1 + math.cos(math.pi * done)) / 2
