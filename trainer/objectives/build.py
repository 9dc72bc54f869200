"""From a configuration to the objective with its encoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from fmritok.trainer.config import Config
from fmritok.trainer.model.blocks import Block
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import ObjectiveModule
from fmritok.trainer.objectives.registry import objective_class

__all__ = ["build_objective", "compile_blocks"]


def build_objective(config: Config, layout: TokenLayout) -> ObjectiveModule:
    """Make the configured objective, its weights drawn from torch's global generator.

    Raises
    ------
    ConfigError
        If there is no objective of that name.
    TrainingError
        If the objective cannot be trained on tokens of that layout.
    """
    kind: Any = objective_class(config.objective.name)
    encoder = TokenTransformer(config.model, layout)
    model: ObjectiveModule = kind(encoder, config.objective, window=config.data.window)
    return model


def compile_blocks(model: nn.Module) -> None:
    """Compile every layer by itself: one graph serves all of them, and names of weights stay."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()
