"""A YAML file whose values are checked when they are taken; errors name the file and the key."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fmritok.errors import CatalogError, expected, wrong_usage
from fmritok.pipeline.tables.small_files import UnreadableError, read_text

__all__ = ["CheckedYaml"]


class CheckedYaml:
    """The YAML file that describes a cohort.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    path : Path
    content : object
        The parsed file.

    Raises
    ------
    CatalogError
        If it cannot be read. Methods also raise it, if a value is of another type.
    """

    def __init__(self, path: Path) -> None:
        import yaml

        self.path = path
        try:
            self.content: Any = yaml.safe_load(read_text(path))
        except (UnreadableError, yaml.YAMLError, RecursionError) as error:
            got = " ".join(str(error).split()) or type(error).__name__
            raise wrong_usage(CatalogError(
                expected("Description of the cohort", path, "a YAML file with `pattern` and "
                         "`atlas`", got, "Write one: docs/parcels.md has examples.")
            )) from error  # fmt: skip

    def file(self, key: str, name: str) -> Path:
        """Return the path of a file beside the YAML file; ``*`` in its name is allowed."""
        path = self.path.parent / Path(name).expanduser()
        found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        if len(found) != 1 or not found[0].is_file():
            count = "not there" if len(found) < 2 else f"{len(found)} files"
            raise self.refusal(key, "one file", f"{path}, which is {count}", "Correct the path.")
        return found[0]

    def mapping(
        self, value: Any, where: str, keys: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return a mapping with text keys, which must be among ``keys`` if they are given.

        ``where`` is the key whose value it is; empty for the whole file.
        """
        if not isinstance(value, dict):
            raise self.refusal(where or "content", "keys with values", repr(value), "Correct it.")
        found = {str(key): one for key, one in value.items()}
        known = found if keys is None else keys
        for key in found:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                raise self.refusal(
                    f"key of {where}" if where else "key",
                    f"one of {', '.join(known)}",
                    repr(key),
                    f"Did you mean {near[0]}?" if near else "Remove it.",
                )
        return found

    def text(self, where: str, value: Any) -> str:
        """Return text, or a number as text."""
        if isinstance(value, dict | list) or value is None or isinstance(value, bool):
            raise self.refusal(
                where, "text", repr(value), "Put it in quotes, as text with braces has to be."
            )
        return str(value)

    def texts(self, where: str, value: Any) -> tuple[str, ...]:
        """Return the texts of a list, or a single one."""
        values = value if isinstance(value, list) else [value]
        return tuple(self.text(where, one) for one in values)

    def refusal(self, key: str, wanted: str, got: object, next_step: str) -> CatalogError:
        """Make the error of a wrong value."""
        error = CatalogError(expected(f"{key} in", self.path, wanted, got, next_step))
        return wrong_usage(error)
