"""Options by name and value: older names, unknown ones, those of other objectives, wrong types."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fmritok.errors import expected
from fmritok.trainer.config import Config, ObjectiveConfig
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.objectives.registry import DEFAULT, objective_class, owners_of

__all__ = ["Tree", "checked_config", "new_name", "with_new_names"]

_logger = logging.getLogger(__name__)

Tree = dict[str, Any]
Node = TypeVar("Node")

#: Options that had another name in release 0.1.
_RENAMED = {("train", "precision"): "dtype", ("objective", "precision"): "epsilon"}


def new_name(section: str, option: str, *, say: bool) -> str:
    """Return the name of an option today; with ``say``, a warning tells it."""
    new = _RENAMED.get((section, option), option)
    if say and new != option:
        _logger.warning("Option %s.%s is now %s.%s", section, option, section, new)
    return new


def with_new_names(tree: Mapping[str, Any], *, say: bool = False) -> Tree:
    """Copy a tree; options under an older name get the new one, which wins if both are there."""
    result: Tree = {}
    for name, section in tree.items():
        if not isinstance(section, Mapping):
            result[name] = section
            continue
        result[name] = {}
        for option, value in section.items():
            new = new_name(name, option, say=say)
            if new == option or new not in section:
                result[name][new] = value
    return result


def checked_config(tree: Mapping[str, Any]) -> Config:
    """Check a tree of options under their names of today, and freeze it.

    Raises
    ------
    ConfigError
        If an option is unknown (a near name is suggested), of another objective than the chosen
        one (which is named), or of the wrong type.
    """
    return _build(Config, tree, "")


def _build(kind: type[Node], tree: Any, prefix: str) -> Node:
    if not isinstance(tree, Mapping):
        section = prefix.rstrip(".")
        raise ConfigError(
            expected("Section", section, "options by name", repr(tree), "See recipe tiny.")
        )
    if kind is ObjectiveConfig:
        tree = {"name": DEFAULT, **tree}
        kind = objective_class(str(tree["name"])).Config  # type: ignore[assignment]
        _refuse_other_objectives(kind, tree)
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    values = {}
    for name, value in tree.items():
        if name not in known:
            raise ConfigError(
                expected("Option", f"{prefix}{name}", f"one of {', '.join(known)}",
                         "an unknown one", _suggestion(prefix, str(name), known))
            )  # fmt: skip
        if is_dataclass(hints[name]):
            values[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            values[name] = _checked(hints[name], value, f"{prefix}{name}")
    return kind(**values)


def _suggestion(prefix: str, name: str, known: list[str]) -> str:
    """Return what to do about an unknown option: a near name, or its section, if there is one."""
    near = get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {prefix}{near[0]}?"
    sections = get_type_hints(Config)
    homes = [f"{section}.{name}" for section, kind in sections.items()
             if name in {f.name for f in fields(kind)}]  # fmt: skip
    return f"Did you mean {' or '.join(homes)}?" if homes else "Choose one of them."


def _refuse_other_objectives(kind: Any, tree: Mapping[str, Any]) -> None:
    """Refuse options that only other objectives than the chosen one have, and name those."""
    known = {field.name for field in fields(kind)}
    owners = {option: owners_of(option) for option in tree if option not in known}
    of_others = [option for option, names in owners.items() if names]
    if not of_others:
        return
    theirs = owners[of_others[0]]
    same = [f"objective.{option}" for option in of_others if owners[option] == theirs]
    near = get_close_matches(of_others[0], known, n=1)
    meant = f"Did you mean objective.{near[0]}? " if near else ""
    raise ConfigError(
        expected("Option", ", ".join(same), f"options of objective {tree['name']}",
                 f"options of objective {' and '.join(theirs)}",
                 f"{meant}Leave them out, or choose --set objective.name={theirs[0]}.")
    )  # fmt: skip


def _checked(hint: Any, value: Any, option: str) -> Any:
    """Return the value if it is of the hinted type; integers and 1e-4 pass for floats."""
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if choices:
        fits, wanted = value in choices, f"one of {', '.join(map(str, choices))}"
    else:
        if float in kinds and isinstance(value, int | str) and not isinstance(value, bool):
            try:  # YAML 1.1 reads 1e-4 as text
                value = float(value)
            except (TypeError, ValueError):
                pass
        fits = type(value) in kinds
        wanted = " or ".join("null" if k is NoneType else k.__name__ for k in kinds)
    if not fits:
        raise ConfigError(
            expected("Option", option, wanted, repr(value), f"Change it with --set {option}=VALUE.")
        )
    return value
