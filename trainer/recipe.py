"""From a recipe and ``--set a.b=c`` overrides to a checked configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import yaml

from fmritok.errors import expected
from fmritok.trainer.config import Config
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.objectives.registry import DEFAULT, options_of, owners_of
from fmritok.trainer.options import Tree, checked_config, new_name, with_new_names
from fmritok.trainer.shipped import read_yaml, shipped_names, shipped_title

__all__ = [
    "Tree",
    "build_config",
    "override",
    "read_recipe",
    "recipe_names",
    "recipe_title",
    "saved_config",
    "to_yaml",
]

_logger = logging.getLogger(__name__)

_PACKAGE = "fmritok.trainer.recipes"
#: How models were made before an option existed, where its default differs.
_BEFORE_OPTIONS = {"model": {"convolution": "causal"}}


def recipe_names(package: str = _PACKAGE) -> list[str]:
    """Return the names of the recipes that come with fmritok, by default those of `train`."""
    return shipped_names(package)


def recipe_title(name: str, package: str = _PACKAGE) -> str:
    """Return the first sentence of a recipe's comment."""
    return shipped_title(package, name)


def read_recipe(name_or_path: str, package: str = _PACKAGE) -> Tree:
    """Read a recipe by its name, or a YAML file of the same form.

    Raises
    ------
    ConfigError
        If there is no such recipe, or it is not a tree of options.
    """
    see = f"For an example see `--recipe {recipe_names(package)[-1]} --print-config`."
    tree = read_yaml(package, name_or_path, what="Recipe", wanted="a tree of options", see=see)
    if tree is None:
        wanted = f"{', '.join(recipe_names(package))} or the path of a YAML file"
        raise ConfigError(
            expected("Option", "--recipe", wanted, repr(name_or_path), "Check the name.")
        )
    return tree


def override(tree: Tree, assignments: Iterable[str]) -> Tree:
    """Return the tree with ``a.b=c`` assignments applied; values are written as in YAML.

    If ``objective.name`` changes, options of the recipe that the new objective does not have are
    left out, and a line says which.

    Raises
    ------
    ConfigError
        If an assignment is not of that form, or names an objective that does not exist.
    """
    result = with_new_names(tree, say=True)
    pairs = [_assignment(text) for text in assignments]
    chosen = [value for path, value in pairs if path == ("objective", "name")]
    if chosen and isinstance(result.get("objective"), dict):
        result["objective"] = _options_kept(result["objective"], str(chosen[-1]))
    for (section_name, option), value in pairs:
        section = result.setdefault(section_name, {})
        if isinstance(section, dict):
            section[option] = value
    return result


def build_config(tree: Mapping[str, Any]) -> Config:
    """Check a tree of options and freeze it.

    Raises
    ------
    ConfigError
        If an option is unknown (a near name is suggested), of another objective than the chosen
        one (which is named), or of the wrong type.
    """
    return checked_config(with_new_names(tree))


def saved_config(tree: Mapping[str, Any]) -> Config:
    """Read the configuration of a checkpoint.

    Those of release 0.1 have the options of all objectives. Options of other objectives than the
    chosen one are left out. Options that came later have the value of the older models. ``stride``
    of ``mae`` had another meaning: it left out patches. It is read as 1, which the weights fit: a
    resumed training predicts all hidden patches.

    Raises
    ------
    ConfigError
        See :func:`build_config`.
    """
    named = with_new_names(tree)
    for name, before in _BEFORE_OPTIONS.items():
        if isinstance(named.get(name), dict):
            named[name] = {**before, **named[name]}
    section = named.get("objective")
    if isinstance(section, dict):
        known = options_of(str(section.get("name", DEFAULT)))
        named["objective"] = {
            option: value
            for option, value in section.items()
            if option in known or not owners_of(option)
        }
        if named["objective"].get("name") == "mae" and "mask_ratio_of" not in section:
            named["objective"]["stride"] = 1
    return checked_config(named)


def to_yaml(config: Config) -> str:
    """Write a resolved configuration as YAML that :func:`read_recipe` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def _assignment(text: str) -> tuple[tuple[str, str], Any]:
    """Read ``a.b=c`` as its section, option and value."""
    option, equals, written = text.partition("=")
    path = option.strip().split(".")
    if not equals or len(path) != 2:
        raise ConfigError(
            expected("Option", "--set", "SECTION.OPTION=VALUE", repr(text),
                     "For example: --set optim.lr=0.001")
        )  # fmt: skip
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise ConfigError(
            expected("Option", option, "a YAML value", repr(written), "Quote it.")
        ) from error
    section, name = path
    return (section, new_name(section, name, say=True)), value


def _options_kept(section: Tree, name: str) -> Tree:
    """Return a recipe's options of an objective without those that objective ``name`` lacks."""
    known, own = options_of(name), options_of(str(section.get("name", DEFAULT)))
    dropped = [option for option in section if option in own and option not in known]
    if dropped:
        _logger.info("Objective %s has no options %s: those of the recipe are left out",
                     name, ", ".join(dropped))  # fmt: skip
    return {option: value for option, value in section.items() if option not in dropped}
