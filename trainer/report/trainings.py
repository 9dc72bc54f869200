"""Facts and loss curves of trainings for the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmritok.errors import FmritokError
from fmritok.trainer.config import Config
from fmritok.trainer.objectives.registry import objective_class
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.record.finding import find_checkpoint
from fmritok.trainer.record.loss_curve import draw_losses
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.training.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TrainingFacts", "read_training"]


@dataclass(frozen=True)
class TrainingFacts:
    """What the report says of a training.

    Attributes
    ----------
    name : str
    config : Config
    facts : list of (str, str)
    verdict : str or None
    figure : Figure or None
    group : str
        Name of the token group that was trained on.
    provenance : dict
        Settings of its tokens.
    notes : list of str
        What is missing, and why.
    """

    name: str
    config: Config
    facts: list[tuple[str, str]]
    verdict: str | None
    figure: Figure | None
    group: str
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_training(path: Path) -> TrainingFacts:
    """Read the last checkpoint of a training and its metrics.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is damaged.
    """
    checkpoint = find_checkpoint(path)
    folder = checkpoint.folder.parent.parent if path == checkpoint.folder else path
    name = folder.name or str(folder)
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    try:
        rows = read_metrics(folder)
    except (OSError, FmritokError) as error:
        notes.append(f"Training {name} has no loss curve: {error}")
    figures = objective_class(checkpoint.config.objective.name).figures
    said, figure = verdict(rows, figures), None
    if rows and said is not None:
        figure = draw_losses(rows, figures, title="")
    elif not notes:
        notes.append(f"Training {name} has no loss curve: its metrics have no finished step.")
    group = checkpoint.state.get("group", {})
    return TrainingFacts(
        name, checkpoint.config, _facts(checkpoint), said, figure, str(group.get("name", "")),
        dict(group.get("contract", {}).get("provenance", {})), notes,
    )  # fmt: skip


def _facts(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    config, state = checkpoint.config, checkpoint.state
    group = state.get("group", {})
    provenance = group.get("contract", {}).get("provenance", {})
    model = config.model
    return [
        ("checkpoint", str(checkpoint.folder)),
        ("sha256 of the weights", checkpoint.sha256()),
        ("token group", f"{group.get('name', '?')} (tokenizer {provenance.get('tokenizer', '?')})"),
        ("objective", config.objective.name),
        ("length", f"{checkpoint.step:,} steps with batches of {config.data.batch_size} windows"),
        ("window", f"{config.data.window} frames"),
        ("model", f"{model.layers} layers, width {model.width}, {model.heads} heads, "
                  f"input {model.input}"),
        ("optimizer", f"AdamW, learning rate {config.optim.lr:g}, weight decay "
                      f"{config.optim.weight_decay:g}"),
        ("seed", str(config.train.seed)),
    ]  # fmt: skip
