"""YAML files that come with fmritok: their names and titles."""

from __future__ import annotations

import re
from importlib import resources
from itertools import takewhile

__all__ = ["shipped_names", "shipped_title"]


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
