"""From a configuration to the objective with its encoder."""

from __future__ import annotations

from torch import nn

from fmritok.trainer.config import Config
from fmritok.trainer.model.blocks import Block
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.distill import SelfDistillation
from fmritok.trainer.objectives.mae import MaskedAutoencoder
from fmritok.trainer.objectives.mtm import MaskedTokenModelling

__all__ = ["OBJECTIVES", "AnyObjective", "build_objective", "compile_blocks"]

AnyObjective = MaskedTokenModelling | MaskedAutoencoder | SelfDistillation
OBJECTIVES: dict[str, type[AnyObjective]] = {
    "distill": SelfDistillation,
    "mae": MaskedAutoencoder,
    "mtm": MaskedTokenModelling,
}


def build_objective(config: Config, layout: TokenLayout) -> AnyObjective:
    """Make the configured objective, its weights drawn from torch's global generator."""
    encoder = TokenTransformer(config.model, layout)
    if config.objective.name == "mae":
        return MaskedAutoencoder(encoder, config.objective)
    if config.objective.name == "distill":
        return SelfDistillation(encoder, config.objective, window=config.data.window)
    return MaskedTokenModelling(encoder, config.objective)


def compile_blocks(model: nn.Module) -> None:
    """Compile every layer by itself: one graph serves all of them, and names of weights stay."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()
