"""Build the objective and its encoder from a configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fmritok.trainer.config import Config
from fmritok.trainer.model.blocks import Block
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import ObjectiveModule
from fmritok.trainer.objectives.registry import objective_class

__all__ = ["build_objective", "compile_blocks"]


def build_objective(config: Config, layout: TokenLayout) -> ObjectiveModule:
    """Build the configured objective. Weights are drawn from torch's global generator.

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


#: CUDA graphs of layers whose shapes do not change; other shapes run as they would without.
_GRAPHS = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}


def compile_blocks(model: nn.Module, *, graphs: bool = False) -> None:
    """Compile each layer by itself: all layers share a graph, and weights keep their names.

    What surrounds a layer's own computation (hooks of a sharded model) is not compiled.

    Parameters
    ----------
    model : torch.nn.Module
    graphs : bool
        Replay each layer as a CUDA graph. Elsewhere than on a GPU this changes nothing.
    """
    how: dict[str, Any] = {"options": dict(_GRAPHS)} if graphs else {}
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = torch.compile(module.forward, **how)  # type: ignore[method-assign]
