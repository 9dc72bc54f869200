"""AdamW and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from fmritok.trainer.config import OptimConfig

__all__ = ["build_optimizer", "learning_rate"]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW that decays the matrices of linear layers only (no norms, biases, embeddings)."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            {
                "params": [p for p in parameters if id(p) in decayed],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
    )


def learning_rate(config: OptimConfig, step: int, n_steps: int) -> float:
    """Return the rate of a step: linear warm-up, then cosine; a pure function.

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
