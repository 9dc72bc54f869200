"""What a fine-tuning starts from: the encoder of a training, or new weights of some shape."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.drawing import keyed_generator
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.recipe import build_config, read_recipe, recipe_names

__all__ = ["Start", "read_start", "torch_seed"]


@dataclass(frozen=True)
class Start:
    """The shape of an encoder, and its pretrained weights, if there are any.

    Attributes
    ----------
    model : ModelConfig
    layout : TokenLayout
    window : int
        Frames that the encoder sees at once.
    pretrained : TokenTransformer or None
    said : dict
        Where shape and weights are from, for the record.
    """

    model: ModelConfig
    layout: TokenLayout
    window: int
    pretrained: TokenTransformer | None
    said: dict[str, Any]

    def encoder(self, *, pretrained: bool) -> TokenTransformer:
        """Return a copy of the pretrained encoder, or one with weights from torch's generator."""
        if pretrained:
            return deepcopy(self.pretrained) if self.pretrained is not None else self._none()
        return TokenTransformer(self.model, self.layout)

    def _none(self) -> TokenTransformer:
        raise ValueError("there are no pretrained weights")


def read_start(group: TokenGroup, source: Path | None, shape: str | None) -> Start:
    """Read what a fine-tuning starts from.

    Parameters
    ----------
    group : TokenGroup
        Tokens of the task.
    source : Path or None
        Folder of a training, or one of its checkpoints; None: from scratch.
    shape : str or None
        From scratch: a training, or a recipe of ``fmritok train``, whose shape is taken.

    Raises
    ------
    ConfigError
        If there is no shape, or both a training and a shape.
    CheckpointError
        If there is no checkpoint, or it was trained on other tokens.
    """
    if source is not None:
        if shape is not None:
            raise ConfigError(
                expected("Option", "--as", "none, as the shape is that of --from", shape,
                         "Leave one of them out.")
            )  # fmt: skip
        return _of_training(group, source)
    if shape is None:
        raise ConfigError(
            expected("Option", "--as", "the shape of an encoder from scratch: a training, or a "
                     f"recipe such as {', '.join(recipe_names())}", "none", "Give one.")
        )  # fmt: skip
    if Path(shape).is_dir():
        start = _of_training(group, Path(shape))
        return Start(start.model, start.layout, start.window, None, {"shape": shape})
    if shape not in recipe_names() and not Path(shape).is_file():
        raise ConfigError(
            expected("Option", "--as", "a training, or a recipe such as "
                     f"{', '.join(recipe_names())}", repr(shape), "Check the name.")
        )  # fmt: skip
    config = build_config(read_recipe(shape))
    layout = TokenLayout.of(group, patch=config.model.patch, window=config.data.window)
    return Start(config.model, layout, config.data.window, None, {"shape": shape})


def torch_seed(*key: int) -> int:
    """Return a seed for torch's generator; those of different keys are independent."""
    return int(keyed_generator(*key).integers(2**63 - 1))


def _of_training(group: TokenGroup, training: Path) -> Start:
    frozen = load_frozen(training, group)
    encoder = frozen.encoder.requires_grad_(True)
    model, layout = frozen.config.model, encoder.grid.layout
    return Start(model, layout, frozen.window, encoder.to(torch.device("cpu")), frozen.source)
