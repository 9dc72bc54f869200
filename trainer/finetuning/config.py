"""Everything that decides the result of a fine-tuning, as a tree of frozen dataclasses.

The recipes in ``trainer/finetuning/recipes`` say where published values come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import yaml

from fmritok.trainer.config import OptimConfig, require
from fmritok.trainer.model.pooling import Pool
from fmritok.trainer.options import checked_tree
from fmritok.trainer.recipe import override, read_recipe

__all__ = [
    "RECIPES",
    "FinetuneConfig",
    "HeadConfig",
    "LossConfig",
    "Trained",
    "WeightsConfig",
    "finetune_config",
    "from_scratch",
    "to_yaml",
]

#: The package of the recipes.
RECIPES = "fmritok.trainer.finetuning.recipes"

Trained = Literal["all", "head", "last", "lora"]


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """What is read of each run.

    Attributes
    ----------
    window : int or None
        Frames; null: those that the encoder was trained on. Windows of events have their own.
    windows_per_run : int
        Random windows of each training run in an epoch.
    test_windows : int or None
        Windows of a run that predictions are averaged over, spread evenly; null: all that do not
        overlap.
    batch_size : int
        Windows of a step.
    validation_fraction : float
        Share of a fold's training side that chooses the epoch, where the split has no validation
        side. What the task keeps together stays together.
    """

    window: int | None = None
    windows_per_run: int = 1
    test_windows: int | None = None
    batch_size: int = 16
    validation_fraction: float = 0.2

    def __post_init__(self) -> None:
        for name in ("window", "windows_per_run", "test_windows", "batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"data.{name}", "1 or more", value)
        fits = 0 < self.validation_fraction <= 0.5
        wanted = "above 0 and at most 0.5"
        require(fits, "data.validation_fraction", wanted, self.validation_fraction)


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Which weights are trained beside the head.

    Attributes
    ----------
    train : {"all", "head", "last", "lora"}
        ``head``: none. ``last``: the last layers and the final norm. ``lora``: low-rank additions
        to all linear layers of the blocks.
    last_layers : int
        For ``last``.
    dropout : float
        After attention and MLP of every layer.
    lora_rank, lora_alpha : int
        For ``lora``: rank, and factor times rank.
    lora_dropout : float
        Before each addition.
    """

    train: Trained = "all"
    last_layers: int = 1
    dropout: float = 0.0
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05

    def __post_init__(self) -> None:
        for name in ("last_layers", "lora_rank", "lora_alpha"):
            require(getattr(self, name) >= 1, f"weights.{name}", "1 or more", getattr(self, name))
        for name in ("dropout", "lora_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"weights.{name}", "0 or more and below 1", value)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """From the encoder's output to a prediction.

    Attributes
    ----------
    pool : {"cls", "mean", "both", "cells"}
        CLS, the mean token, CLS and mean token, or CLS and the mean token of each cell.
    hidden : int or None
        Width of a hidden layer; null: a linear head.
    dropout : float
        Before each linear layer.
    """

    pool: Pool = "both"
    hidden: int | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(self.hidden is None or self.hidden >= 1, "head.hidden", "1 or more", self.hidden)
        require(0 <= self.dropout < 1, "head.dropout", "0 or more and below 1", self.dropout)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised.

    Attributes
    ----------
    class_weights : bool
        Weigh classes by the inverse of their number among the training units.
    standardize : bool
        Predict numbers in standard deviations of the training units.
    numbers : {"mse", "l1"}
        Squared or absolute error of numbers.
    mixup : float
        Mix inputs and labels of two windows by a share drawn from Beta(mixup, mixup); 0: not.
    """

    class_weights: bool = True
    standardize: bool = True
    numbers: Literal["mse", "l1"] = "mse"
    mixup: float = 0.0

    def __post_init__(self) -> None:
        require(self.mixup >= 0, "loss.mixup", "0 or more", self.mixup)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptim(OptimConfig):
    """AdamW with linear warm-up and cosine decay, slower in early layers.

    Attributes
    ----------
    layer_decay : float
        Factor of the learning rate from each layer to the one before; 1: all the same.
    """

    lr: float = 3e-4
    final_lr_ratio: float = 0.0
    warmup: float = 0.1
    beta2: float = 0.999
    layer_decay: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 0 < self.layer_decay <= 1
        require(fits, "optim.layer_decay", "above 0 and at most 1", self.layer_decay)


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """Length of a training.

    Attributes
    ----------
    seed : int
        Of the head's weights, the windows and dropout; each fold has its own derived from it.
    epochs : int
        At most.
    patience : int or None
        Epochs without a better validation after which a fold ends; null: never.
    dtype : {"auto", "fp32", "bf16"}
    """

    seed: int = 0
    epochs: int = 30
    patience: int | None = 8
    dtype: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        require(self.seed >= 0, "train.seed", "0 or more", self.seed)
        require(self.epochs >= 1, "train.epochs", "1 or more", self.epochs)
        fits = self.patience is None or self.patience >= 1
        require(fits, "train.patience", "1 or more, or null", self.patience)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The whole tree; saved as ``finetune.yaml`` beside the results."""

    data: WindowsConfig = field(default_factory=WindowsConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: FinetuneOptim = field(default_factory=FinetuneOptim)
    train: LengthConfig = field(default_factory=LengthConfig)


def finetune_config(recipe: str, assignments: Iterable[str] = ()) -> FinetuneConfig:
    """Read a recipe by its name or file, apply ``section.option=value``, and check it.

    Raises
    ------
    ConfigError
        If there is no such recipe, or an option is unknown or of the wrong type.
    """
    return checked_tree(FinetuneConfig, override(read_recipe(recipe, RECIPES), assignments))


def from_scratch(config: FinetuneConfig) -> FinetuneConfig:
    """Return the configuration of a twin from scratch: all weights are trained, equally fast."""
    return replace(
        config,
        weights=replace(config.weights, train="all"),
        optim=replace(config.optim, layer_decay=1.0),
    )


def to_yaml(config: FinetuneConfig) -> str:
    """Write a resolved configuration as YAML, which is a recipe."""
    return yaml.safe_dump(asdict(config), sort_keys=False)
