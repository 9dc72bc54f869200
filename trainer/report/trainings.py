"""Facts of trainings and of exported encoders for the report; loss curves of trainings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmritok.errors import FmritokError
from fmritok.quantities import counted
from fmritok.trainer.config import Config
from fmritok.trainer.objectives.registry import objective_class
from fmritok.trainer.pretrained.model_folder import ModelFolder
from fmritok.trainer.record.checkpoint import Checkpoint
from fmritok.trainer.record.finding import find_trained
from fmritok.trainer.record.loss_curve import draw_losses
from fmritok.trainer.record.metrics import read_metrics
from fmritok.trainer.training.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TrainingFacts", "read_training"]


@dataclass(frozen=True)
class TrainingFacts:
    """What the report says of a training, or of a model folder.

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
    origin : str or None
        Method whose released weights were imported; None for a training.
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
    origin: str | None = None
    notes: list[str] = field(default_factory=list)


def read_training(path: Path) -> TrainingFacts:
    """Read the last checkpoint of a training and its metrics, or a model folder.

    Raises
    ------
    CheckpointError
        If there is neither, or it is damaged.
    """
    found = find_trained(path)
    if isinstance(found, ModelFolder):
        return _of_model(found)
    folder = found.folder.parent.parent if path == found.folder else path
    name = folder.name or str(folder)
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    try:
        rows = read_metrics(folder)
    except (OSError, FmritokError) as error:
        notes.append(f"Training {name} has no loss curve: {error}")
    figures = objective_class(found.config.objective.name).figures
    said, figure = verdict(rows, figures), None
    if rows and said is not None:
        figure = draw_losses(rows, figures, title="")
    elif not notes:
        notes.append(f"Training {name} has no loss curve: its metrics have no finished step.")
    facts = [
        ("checkpoint", str(found.folder)),
        *_facts(found, found.config.data.window),
        *_of_training(found.config, found.step),
    ]
    return TrainingFacts(
        name, found.config, facts, said, figure, found.group_name, _provenance(found), notes=notes
    )


def _of_model(found: ModelFolder) -> TrainingFacts:
    """Return what a model folder says of itself; the metrics stayed in the training."""
    name, known = found.folder.name or str(found.folder), found.facts
    facts = [
        ("model folder", str(found.folder)),
        ("licence of the weights", found.license or "none is stated"),
        *_facts(found, found.window),
    ]
    origin = known.get("origin")
    note = f"Model {name} has no loss curve: "
    if origin is not None:
        note += f"it holds weights of {origin['method']}, without metrics."
        facts.append(("weights of", f"{origin['method']} ({origin['source']})"))
    else:
        note += "an exported encoder has no metrics. Give the folder of the training."
        if found.step is not None:
            facts += _of_training(found.config, found.step)
    return TrainingFacts(
        name, found.config, facts, known.get("verdict"), None, found.group_name,
        _provenance(found), origin=None if origin is None else str(origin["method"]), notes=[note],
    )  # fmt: skip


def _provenance(found: Checkpoint | ModelFolder) -> dict[str, Any]:
    return dict(found.state["group"].get("contract", {}).get("provenance", {}))


def _facts(found: Checkpoint | ModelFolder, window: int) -> list[tuple[str, str]]:
    """Return the facts that every encoder has."""
    config, tokenizer = found.config, _provenance(found).get("tokenizer", "?")
    model = config.model
    return [
        ("sha256 of the weights", found.sha256()),
        ("token group", f"{found.group_name} (tokenizer {tokenizer})"),
        ("objective", config.objective.name),
        ("window", counted(window, "frame")),
        ("model", f"{counted(model.layers, 'layer')}, width {model.width}, "
                  f"{counted(model.heads, 'head')}, input {model.input}"),
    ]  # fmt: skip


def _of_training(config: Config, step: int) -> list[tuple[str, str]]:
    """Return how an encoder was trained."""
    return [
        ("length", f"{counted(step, 'step')} with batches of "
                   f"{counted(config.data.batch_size, 'window')}"),
        ("optimizer", f"AdamW, learning rate {config.optim.lr:g}, weight decay "
                      f"{config.optim.weight_decay:g}"),
        ("seed", str(config.train.seed)),
    ]  # fmt: skip
