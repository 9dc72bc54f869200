"""The published methods whose weights can be imported: their tokens, names and licences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fmritok.trainer.options import Tree
from fmritok.trainer.published import cortexmae, semantoks, tablet
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes
    ----------
    title : str
    tokenizer : str
        Name of the tokenizer of its tokens.
    needed : str
        Option of the tokenizer that has to be given.
    license : str or None
        Identifier of the released weights' licence; None if they have none.
    about_license : str
        One sentence on it.
    token_options : callable
        Returns the options of the tokenizer that its tokens need.
    recipe_options : callable
        Turns its settings into options of a recipe.
    renamed : callable
        Turns its weights into those of its encoder.
    """

    title: str
    tokenizer: str
    needed: str
    license: str | None
    about_license: str
    token_options: Callable[[], dict[str, Any]]
    recipe_options: Callable[[Mapping[str, Any]], Tree]
    renamed: Callable[[Mapping[str, Tensor], SavedGroup], dict[str, Tensor]]


def _of_cortexmae(weights: Mapping[str, Tensor], group: SavedGroup) -> dict[str, Tensor]:
    layout = group.provenance["layout"]
    columns = layout["image"][1] // layout["patch"]
    row, column = np.asarray(group.array("cell")).T
    return _encoder(cortexmae.renamed_weights(weights, row * columns + column), "encoder.")


def _of_semantoks(weights: Mapping[str, Tensor], group: SavedGroup) -> dict[str, Tensor]:
    renamed = semantoks.renamed_weights(weights)
    whole = any(name.startswith("teacher.") for name in renamed)
    return _encoder(renamed, "teacher.encoder." if whole else "encoder.")


def _of_tablet(weights: Mapping[str, Tensor], group: SavedGroup) -> dict[str, Tensor]:
    return _encoder(tablet.renamed_weights(weights), "encoder.")


def _encoder(renamed: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights of the encoder, and leave out those of the objective."""
    return {
        name.removeprefix(prefix): value
        for name, value in renamed.items() if name.startswith(prefix)
    }  # fmt: skip


METHODS = {
    "tablet": Method(
        "TABLeT (Kim et al., arXiv 2604.03619)", "vae", "weights", "apache-2.0",
        "That is the licence of its code: see the page of the weights for another one.",
        tablet.token_options, tablet.recipe_options, _of_tablet,
    ),
    "cortexmae": Method(
        "CortexMAE (Lane et al., arXiv 2510.13768)", "flatmap", "template", "cc-by-nc-4.0",
        "Its authors license the weights as CC BY-NC 4.0: no commercial use.",
        cortexmae.token_options, cortexmae.recipe_options, _of_cortexmae,
    ),
    "semantoks": Method(
        "Brain-Semantoks (Gijsen et al., arXiv 2512.11582)", "network", "atlas", None,
        "Its authors state no licence, for code or weights.",
        semantoks.token_options, semantoks.recipe_options, _of_semantoks,
    ),
}  # fmt: skip
