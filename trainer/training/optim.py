"""AdamW, its learning rate and its weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fmritok.trainer.config import OptimConfig

__all__ = ["build_optimizer", "learning_rate", "weight_decay"]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW that decays the matrices of linear and dense layers only.

    Norms, biases and embeddings are not decayed. Frozen parameters are left out.
    """
    layers = (nn.Linear, nn.Conv1d)
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, layers)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in parameters if (id(p) in decayed) == chosen],
            "weight_decay": config.weight_decay if chosen else 0.0,
            "decayed": chosen,
        }
        for chosen in (True, False)
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True if parameters[0].is_cuda else None,
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
