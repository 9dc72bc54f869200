"""From a recipe and ``--set a.b=c`` overrides to a checked configuration."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib import resources
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from fmritok.errors import expected
from fmritok.trainer.config import Config
from fmritok.trainer.errors import ConfigError

__all__ = [
    "build_config",
    "override",
    "read_recipe",
    "recipe_names",
    "recipe_title",
    "to_yaml",
]

Tree = dict[str, Any]
Node = TypeVar("Node")


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with fmritok."""
    folder = resources.files("fmritok.trainer.recipes")
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def recipe_title(name: str) -> str:
    """Return the first sentence of the comment that a recipe of ours begins with."""
    lines = (resources.files("fmritok.trainer.recipes") / f"{name}.yaml").read_text().splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0]


def read_recipe(name_or_path: str) -> Tree:
    """Read a recipe by its name, or a YAML file of the same form.

    Raises
    ------
    ConfigError
        If there is no such recipe, or it is not a tree of options.
    """
    if name_or_path in recipe_names():
        text = (resources.files("fmritok.trainer.recipes") / f"{name_or_path}.yaml").read_text()
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text()
    else:
        wanted = f"{', '.join(recipe_names())} or the path of a YAML file"
        raise ConfigError(
            expected("Option", "--recipe", wanted, repr(name_or_path), "Check the name.")
        )
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(
            expected("Recipe", name_or_path, "valid YAML", error, "Correct the file.")
        ) from error
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise ConfigError(
            expected("Recipe", name_or_path, "a tree of options", f"a {kind}", "See recipe tiny.")
        )
    return tree


def override(tree: Tree, assignments: Iterable[str]) -> Tree:
    """Return the tree with ``a.b=c`` assignments applied; values are written as in YAML."""
    result: Tree = {key: dict(v) if isinstance(v, dict) else v for key, v in tree.items()}
    for assignment in assignments:
        option, equals, text = assignment.partition("=")
        path = option.strip().split(".")
        if not equals or len(path) != 2:
            raise ConfigError(
                expected("Option", "--set", "SECTION.OPTION=VALUE", repr(assignment),
                         "For example: --set optim.lr=0.001")
            )  # fmt: skip
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                expected("Option", option, "a YAML value", repr(text), "Quote it.")
            ) from error
        section = result.setdefault(path[0], {})
        if isinstance(section, dict):
            section[path[1]] = value
    return result


def build_config(tree: Mapping[str, Any]) -> Config:
    """Check a tree of options and freeze it.

    Raises
    ------
    ConfigError
        If an option is unknown (the nearest known one is named), or of the wrong type.
    """
    return _build(Config, tree, "")


def to_yaml(config: Config) -> str:
    """Write a resolved configuration as YAML that :func:`read_recipe` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def _build(kind: type[Node], tree: Any, prefix: str) -> Node:
    if not isinstance(tree, Mapping):
        section = prefix.rstrip(".")
        raise ConfigError(
            expected("Section", section, "options by name", repr(tree), "See recipe tiny.")
        )
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    values = {}
    for name, value in tree.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            raise ConfigError(
                expected("Option", f"{prefix}{name}", f"one of {', '.join(known)}",
                         "an unknown one", f"Did you mean {prefix}{near[0]}?")
            )  # fmt: skip
        if is_dataclass(hints[name]):
            values[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            values[name] = _checked(hints[name], value, f"{prefix}{name}")
    return kind(**values)


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
