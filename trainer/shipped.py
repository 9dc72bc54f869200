"""YAML files that come with fmritok, and those of users: names, titles, content."""

from __future__ import annotations

import re
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError

__all__ = ["read_yaml", "shipped_names", "shipped_title"]


def shipped_names(package: str) -> list[str]:
    """Return the names of the YAML files in a package, without their ending."""
    folder = resources.files(package)
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def shipped_title(package: str, name: str) -> str:
    """Return the first sentence of the comment at the beginning of a YAML file."""
    lines = (resources.files(package) / f"{name}.yaml").read_text().splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0]


def read_yaml(
    package: str, name_or_path: str, *, what: str, wanted: str, see: str
) -> dict[str, Any] | None:
    """Read a YAML file that comes with fmritok by its name, or another one by its path.

    Parameters
    ----------
    package : str
        Where the shipped files are.
    name_or_path : str
    what, wanted, see : str
        Subject, expected content and next step, for errors.

    Returns
    -------
    dict or None
        None if there is no file of that name or path. An empty file is an empty tree.

    Raises
    ------
    ConfigError
        If the file cannot be read, or is not a mapping.
    """
    try:
        if name_or_path in shipped_names(package):
            text = (resources.files(package) / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        elif Path(name_or_path).is_file():
            text = Path(name_or_path).read_text(encoding="utf-8")
        else:
            return None
        tree = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(expected(what, name_or_path, "a text file", error, see)) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            expected(what, name_or_path, "valid YAML", error, "Correct the file.")
        ) from error
    if not isinstance(tree, dict):
        got = "a list" if isinstance(tree, list) else repr(tree)
        raise ConfigError(expected(what, name_or_path, wanted, got, see))
    return tree
