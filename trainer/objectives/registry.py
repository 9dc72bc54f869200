"""Registry of objectives: a table of ours, and entry points of other distributions."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from fmritok.registry import Registry
from fmritok.trainer.errors import ConfigError

if TYPE_CHECKING:
    from fmritok.trainer.objectives.base import Objective

__all__ = ["DEFAULT", "OBJECTIVES", "objective_class", "options_of", "owners_of"]

OBJECTIVES = Registry(
    "Objective",
    "fmritok.objectives",
    {
        "distill": "fmritok.trainer.objectives.distill:SelfDistillation",
        "mae": "fmritok.trainer.objectives.mae:MaskedAutoencoder",
        "mtm": "fmritok.trainer.objectives.mtm:MaskedTokenModelling",
    },
    ConfigError,
)

#: Objective of recipes that do not choose one.
DEFAULT = "mtm"


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective.

    Raises
    ------
    ConfigError
        If there is none of that name, or another distribution's cannot be imported.
    """
    kind: type[Objective] = OBJECTIVES.find(name)
    return kind


def options_of(name: str) -> list[str]:
    """Return the names of an objective's options.

    Raises
    ------
    ConfigError
        See :func:`objective_class`.
    """
    return [field.name for field in fields(objective_class(name).Config)]


def owners_of(option: str) -> list[str]:
    """Return the names of the objectives with an option; those that cannot load are skipped."""
    owners = []
    for name in OBJECTIVES.names():
        try:
            if option in options_of(name):
                owners.append(name)
        except ConfigError:
            continue
    return owners
