"""Kept weights of a fold: one safetensors file with all that is needed to predict from tokens."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.config import ModelConfig
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.finetuning.config import FinetuneConfig
from fmritok.trainer.finetuning.model import Classifier
from fmritok.trainer.finetuning.targets import Targets
from fmritok.trainer.finetuning.weights import whole_state
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.options import checked_tree
from fmritok.trainer.record.saved_group import SavedGroup
from fmritok.trainer.tasks.units import Units

__all__ = ["KeptClassifier", "kept", "read_classifier"]

_FORMAT = "fmritok classifier 1"


@dataclass(frozen=True)
class KeptClassifier:
    """A model that predicts the labels of a task from windows of tokens.

    Attributes
    ----------
    model : Classifier
        In evaluation mode; its ``outputs`` are one for each class, or one number.
    window : int
        Frames of a window.
    target : str
    classes : tuple of str
        In the order of the outputs; none of numbers.
    mean, sd : float
        A number is ``mean + sd * output``.
    """

    model: Classifier
    window: int
    target: str
    classes: tuple[str, ...]
    mean: float
    sd: float


def kept(
    model: Classifier, config: FinetuneConfig, targets: Targets, units: Units, group: TokenGroup
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights, adapters added up, and the metadata of their file."""
    said = {
        "config": asdict(config),
        "model": asdict(model.encoder.config),
        "patch": model.encoder.grid.layout.patch,
        "window": model.encoder.grid.layout.window,
        "target": units.task.target[0],
        "classes": list(units.classes) if units.task.kind != "regression" else [],
        "mean": targets.mean,
        "sd": targets.sd,
        "tokens": {"name": group.name, "contract": group.contract},
    }
    return whole_state(model), {"format": _FORMAT, "classifier": json.dumps(said)}


def read_classifier(file: Path, group: TokenGroup) -> KeptClassifier:
    """Read what ``fmritok finetune --keep-weights`` wrote.

    Parameters
    ----------
    file : Path
    group : TokenGroup
        Tokens to predict from.

    Raises
    ------
    CheckpointError
        If it is no such file, or was trained on other tokens.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"format {metadata.get('format')!r}")
        said: dict[str, Any] = json.loads(metadata["classifier"])
        state = load_file(file)
        SavedGroup(**said["tokens"], notes={}, arrays={}).refuse_others(group.contract, file)
        config = checked_tree(FinetuneConfig, said["config"])
        window = config.data.window or 1
        longest = said.get("window") or max(window, said["patch"])
        layout = TokenLayout.of(group, patch=said["patch"], window=longest)
        encoder = TokenTransformer(ModelConfig(**said["model"]), layout)
        model = Classifier(encoder, config, len(said["classes"]) or 1)
        model.load_state_dict(state)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            expected("Weights", file, "a file of `fmritok finetune --keep-weights`", error,
                     "Make it again.")
        ) from error  # fmt: skip
    classes = tuple(said["classes"])
    return KeptClassifier(model.eval(), window, said["target"], classes, said["mean"], said["sd"])
