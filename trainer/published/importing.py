"""Import released weights: rename them, check every tensor, and write a model folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import FrozenEncoder
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.pretrained.card import is_non_commercial
from fmritok.trainer.pretrained.exporting import check_target, write_frozen
from fmritok.trainer.pretrained.model_folder import ModelFolder
from fmritok.trainer.published.methods import METHODS, Method
from fmritok.trainer.published.proof import largest_difference
from fmritok.trainer.published.reading import Released, read_released
from fmritok.trainer.recipe import build_config
from fmritok.trainer.record.saved_group import SavedGroup
from fmritok.trainer.record.tensor_files import load_tensors

__all__ = ["import_weights"]

_logger = logging.getLogger(__name__)


def import_weights(
    name: str,
    path: Path,
    out: Path,
    group: SavedGroup,
    *,
    settings: Path | None = None,
    figures: Path | None = None,
    license: str | None = None,
) -> ModelFolder:
    """Write the encoder of released weights to a model folder.

    Parameters
    ----------
    name : str
        Of the method, such as ``cortexmae``.
    path : Path
        Weights, or a folder with them; see :func:`fmritok.trainer.published.reading.read_released`.
    out : Path
        A new or empty folder, or an earlier model folder, which is replaced.
    group : SavedGroup
        Meaning of the tokens that the encoder will read.
    settings : Path, optional
        File with the settings of the model.
    figures : Path, optional
        Folder with inputs and outputs of the published code, which the encoder has to repeat.
    license : str, optional
        Identifier of the weights' licence. Default: as the model card beside them states it, else
        as their authors state it.

    Raises
    ------
    CheckpointError
        If the weights cannot be read, are of another model, or do not repeat the figures. The
        first tensor or output that is wrong is named.
    ConfigError
        If ``out`` has other files.
    TrainingError
        If the disk refuses.
    """
    check_target(out)
    method, released = METHODS[name], read_released(path, settings)
    frozen = _built(method, released, group)
    difference = None
    if figures is not None:
        difference = largest_difference(name, frozen.encoder, group, figures)
    license = license or released.license or method.license
    facts: dict[str, Any] = {
        "step": None,
        "origin": {
            "method": method.title, "source": released.file.name, "sha256": released.sha256,
            "settings": released.settings, "license": license, "difference": difference,
        },
    }  # fmt: skip
    write_frozen(frozen, facts, out, license=license)
    _warn_of(license, method)
    return ModelFolder.read(out)


def _built(method: Method, released: Released, group: SavedGroup) -> FrozenEncoder:
    """Build the encoder of released weights."""
    try:
        config = build_config(method.recipe_options(released.settings))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):  # a setting that fmritok's model does not have
            raise
        got = f"no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            expected("Settings", f"of {released.file}", f"those of {method.title}", got,
                     "Give the model's settings with --settings FILE.")
        ) from error  # fmt: skip
    layout = TokenLayout.of(group, patch=config.model.patch, window=config.data.window)
    with torch.random.fork_rng(devices=[]):
        model = build_objective(config, layout)
    encoder = model.features
    load_tensors(
        method.renamed(released.weights, group), encoder, released.file,
        then=f"These weights are not {method.title}, or its settings or tokens are others.",
    )  # fmt: skip
    source = {"checkpoint": str(released.file), "step": None, "sha256": released.sha256}
    return FrozenEncoder(encoder.eval(), config, model.window, source, group)


def _warn_of(license: str | None, method: Method) -> None:
    if license is None:
        _logger.warning("%s These weights may not be passed on", method.about_license)
    elif is_non_commercial(license):
        _logger.warning("The licence of these weights is %s: no commercial use", license)
    elif is_non_commercial(method.license or ""):
        _logger.warning("%s The result says %s, as you gave it", method.about_license, license)
    else:
        _logger.info("The licence of these weights is %s. %s", license, method.about_license)
