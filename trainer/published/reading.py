"""Read the weights and settings that others released: safetensors, or a checkpoint of torch.

A checkpoint is read by torch's weights-only loader, which makes tensors, numbers, texts and
containers of them, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from fmritok.errors import expected, wrong_usage
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.faults import reason
from fmritok.trainer.record.sealed_files import file_sha256

__all__ = ["Released", "read_released"]

_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin")
#: Entries of a checkpoint with the weights, and with the settings.
_WEIGHTS, _SETTINGS = ("model", "model_state_dict", "state_dict"), ("args", "config")


@dataclass(frozen=True)
class Released:
    """Weights as they were released.

    Attributes
    ----------
    file : Path
    sha256 : str
        Checksum of the file.
    weights : dict of str to torch.Tensor
        By their own names.
    settings : dict
        Of the model; empty if there are none.
    license : str or None
        As the model card beside the weights states it.
    """

    file: Path
    sha256: str
    weights: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    license: str | None


def read_released(path: Path, settings: Path | None = None) -> Released:
    """Read released weights.

    Parameters
    ----------
    path : Path
        A file of weights (safetensors, or a checkpoint of torch), or a folder with one.
    settings : Path, optional
        JSON or YAML file with the settings of the model. Default: ``config.json`` beside the
        weights, else an entry of the checkpoint.

    Raises
    ------
    CheckpointError
        If there is no such file, there are several, or it holds something else.
    """
    file = _file_of(path)
    entries: Mapping[str, Any]
    try:
        if file.suffix == ".safetensors":
            entries = {"model": load_file(file)}
        else:
            entries = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's loader raises many exceptions for damaged files
        got = f"{type(error).__name__}: {reason(error)}"
        if isinstance(error, UnpicklingError):
            got = "objects that torch's weights-only loader refuses"
        raise CheckpointError(
            expected("Weights", file, "tensors in safetensors or a checkpoint of torch", got,
                     "Save the weights alone, as safetensors.")
        ) from error  # fmt: skip
    said = _settings_beside(file, settings)
    if said is None:
        found = (_plain(entries[name]) for name in _SETTINGS if name in entries)
        said = next((x for x in found if isinstance(x, Mapping)), {})
    return Released(file, file_sha256(file), _tensors(entries, file), said, _license(file.parent))


def _file_of(path: Path) -> Path:
    if path.is_file():
        return path
    kinds = (".safetensors", *_CHECKPOINTS)
    found = sorted(file for file in path.glob("*") if file.suffix in kinds)
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    error = CheckpointError(
        expected("Weights", path, f"one file that ends with {', '.join(kinds)}",
                 names if path.exists() else "nothing of that name",
                 "Give the file. `fmritok fetch model ID` downloads a hub model and prints its "
                 "folder.")
    )  # fmt: skip
    raise error if path.exists() else wrong_usage(error)


def _tensors(entries: Any, file: Path) -> dict[str, Tensor]:
    """Return the entry with the weights; a checkpoint of tensors alone is that entry."""
    held = next((entries[name] for name in _WEIGHTS if name in entries), entries) if isinstance(
        entries, Mapping) else None  # fmt: skip
    if not isinstance(held, Mapping) or not held:
        raise CheckpointError(
            expected("Weights", file, f"named tensors, under {' or '.join(_WEIGHTS)}",
                     "something else", "Give the file that the pretraining wrote.")
        )  # fmt: skip
    tensors = {}
    for name, value in held.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                expected("Weights", file, f"a tensor for {name}", type(value).__name__,
                         "Give the file that the pretraining wrote.")
            )  # fmt: skip
        value = value.float() if value.is_floating_point() else value
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(
                expected("Weights", file, f"finite numbers in {name}", "NaN or infinity",
                         "Get the file again.")
            )  # fmt: skip
        tensors[str(name)] = value
    return tensors


def _settings_beside(file: Path, given: Path | None) -> Mapping[str, Any] | None:
    place = given or file.parent / "config.json"
    if given is None and not place.is_file():
        return None
    try:
        said = yaml.safe_load(place.read_text())  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = reason(error)
    if not isinstance(said, Mapping):
        raise CheckpointError(
            expected("Settings", place, "a mapping, as JSON or YAML", said,
                     "Give the model's settings with --settings FILE.")
        )  # fmt: skip
    return said


def _plain(value: Any) -> Any:
    """Return settings as JSON has them, for the record."""
    return json.loads(json.dumps(value, default=str))


def _license(folder: Path) -> str | None:
    """Return the licence in the metadata of the model card beside the weights."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(errors="replace")
    if not text.startswith("---"):
        return None
    try:
        said = yaml.safe_load(text.split("---", 2)[1])
    except (yaml.YAMLError, IndexError):
        return None
    license = said.get("license") if isinstance(said, Mapping) else None
    return str(license) if license else None
