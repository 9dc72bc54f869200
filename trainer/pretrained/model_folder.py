"""The folder of an encoder for others: written whole, read with checksums and without pickle.

======================  ===========================================================================
``config.json``         recipe, contract of the tokens, layout, facts, licence; sha256 of the files
                        below, and its own digest
``model.safetensors``   the encoder's weights
``layout.safetensors``  static arrays of the tokens: coordinates, pixel mask, networks
``tokenizer.json``      name and options of the tokenizer
``README.md``           the model card; people may edit it, and it has no checksum
======================  ===========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from fmritok.errors import expected
from fmritok.pipeline.store.documents.seal import canonical_json, sha256
from fmritok.trainer.config import Config
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.faults import write_whole
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.record.encoder_folder import WEIGHTS, EncoderFolder
from fmritok.trainer.record.saved_group import SavedGroup
from fmritok.trainer.record.sealed_files import SealedFiles, fits_digest, with_digest

__all__ = ["CARD", "CONFIG", "FILES", "ModelFolder", "is_model_folder", "write_model_folder"]

CONFIG, CARD = "config.json", "README.md"
_LAYOUT, _TOKENIZER = "layout.safetensors", "tokenizer.json"
#: All files of the folder.
FILES = (CONFIG, WEIGHTS, _LAYOUT, _TOKENIZER, CARD)
_FORMAT, _FAMILY = "fmritok model 1", b'"fmritok model '


def write_model_folder(
    target: Path,
    encoder: TokenTransformer,
    *,
    config: Config,
    window: int,
    group: SavedGroup,
    facts: Mapping[str, Any],
    license: str | None,
    has_paths: bool = True,
) -> None:
    """Write an encoder to a folder; ``config.json`` is written last.

    A folder that is written over has no ``config.json`` in between, and is then refused.

    Parameters
    ----------
    target : Path
        Created if needed.
    encoder : TokenTransformer
    config : Config
        The recipe.
    window : int
        Frames that the encoder sees at once.
    group : SavedGroup
        Meaning of its tokens.
    facts : dict
        JSON-able; see :mod:`fmritok.trainer.pretrained.facts`.
    license : str or None
        Identifier of the weights' licence.
    has_paths : bool
        Keep the folders of the tokenizer's local files; without them, names are left.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    target.mkdir(parents=True, exist_ok=True)
    (target / CONFIG).unlink(missing_ok=True)
    tensors = {name: x.detach().cpu().contiguous() for name, x in encoder.state_dict().items()}
    arrays = {name: np.ascontiguousarray(values) for name, values in group.arrays.items()}
    notes = group.notes if has_paths else _without_folders(group.notes)
    tokenizer = {"name": group.provenance.get("tokenizer"), **notes}
    contents = {
        WEIGHTS: save_tensors(tensors, metadata={"format": "pt"}),
        _LAYOUT: save_arrays(arrays),
        _TOKENIZER: canonical_json(tokenizer),
    }
    for name, content in contents.items():
        write_whole(target / name, content)
    layout = encoder.grid.layout
    whole = {
        "format": _FORMAT,
        "fmritok": version("fmritok"),
        "recipe": asdict(_without_people(config)),
        "window": window,
        "group": {"name": group.name, "contract": group.contract},
        "layout": {
            "kind": layout.kind, "n_tokens": layout.n_tokens, "dim": layout.dim,
            "patch": layout.patch, "cells": encoder.grid.n_cells,
        },
        "facts": facts,
        "license": license,
        "files": {name: sha256(content) for name, content in contents.items()},
    }  # fmt: skip
    whole = json.loads(json.dumps(whole))  # tuples to lists, as they are read
    write_whole(target / CONFIG, canonical_json(with_digest(whole)))


def is_model_folder(path: Path) -> bool:
    """Tell whether a folder was written by :func:`write_model_folder`; it may be damaged."""
    if (path / _LAYOUT).is_file() and (path / _TOKENIZER).is_file():
        return True
    try:  # opening a pipe would block
        return (path / CONFIG).is_file() and _FAMILY in (path / CONFIG).read_bytes()
    except OSError:
        return False


@dataclass(frozen=True)
class ModelFolder(EncoderFolder):
    """A model folder; its state is the content of ``config.json``."""

    config_key: ClassVar[str] = "recipe"
    config_name: ClassVar[str] = "Recipe of model"

    @classmethod
    def read(cls, folder: Path) -> ModelFolder:
        """Read the configuration of a model folder.

        Raises
        ------
        CheckpointError
            If it is missing, damaged, or of a format that this release does not know.
        """
        file = folder / CONFIG
        try:
            data = file.read_bytes()
            state = json.loads(data)
            kind = state.get("format")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise _damaged(file, "the configuration of a model, as JSON", error) from error
        if isinstance(kind, str) and kind != _FORMAT and kind.startswith("fmritok model "):
            raise CheckpointError(
                expected("Model", folder, f"format {_FORMAT!r}", repr(kind),
                         "Use a newer release of fmritok.")
            )  # fmt: skip
        if kind != _FORMAT or not fits_digest(state):
            raise _damaged(file, "a configuration that matches its digest", "another")
        return cls(folder, state, SealedFiles(folder, state["files"], CONFIG, _damaged))

    @property
    def training(self) -> Path:
        """The folder itself: it holds one encoder."""
        return self.folder.absolute()

    @property
    def step(self) -> int | None:
        """Steps of the training; None for imported weights."""
        step = self.state["facts"].get("step")
        return None if step is None else int(step)

    @property
    def window(self) -> int:
        """Frames that the encoder sees at once."""
        return int(self.state["window"])

    @property
    def license(self) -> str | None:
        """Identifier of the weights' licence."""
        said = self.state["license"]
        return None if said is None else str(said)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the training, or of the import."""
        return dict(self.state["facts"])

    @property
    def group(self) -> SavedGroup:
        """Meaning of its tokens.

        Raises
        ------
        CheckpointError
            If a file is damaged.
        """
        arrays = load_arrays(self.files.path(_LAYOUT).read_bytes())
        said = json.loads(self.files.path(_TOKENIZER).read_bytes())
        notes = {name: value for name, value in said.items() if name != "name"}
        return SavedGroup(self.group_name, self.state["group"]["contract"], notes, arrays)


def _without_people(config: Config) -> Config:
    """Leave out who was held out, if it was chosen by people and not by sites or cohorts."""
    column = (config.data.hold_out or "").partition("=")[0]
    if column in ("", "site", "dataset"):
        return config
    return replace(config, data=replace(config.data, hold_out=None))


def _without_folders(value: Any) -> Any:
    """Replace absolute paths by the names of their files."""
    if isinstance(value, Mapping):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_path else value


def _damaged(file: Path, wanted: str, got: object) -> CheckpointError:
    got = got.strerror if isinstance(got, OSError) else got
    return CheckpointError(
        expected("Model file", file, wanted, got, "It is damaged: export or fetch it again.")
    )
