"""Registries of plug-ins by name: our own, and entry points of other distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fmritok.errors import FmritokError, expected, wrong_usage

__all__ = ["Registry"]


@dataclass(frozen=True)
class Registry:
    """Plug-ins of one kind by name; other distributions add theirs by entry points.

    Attributes
    ----------
    kind : str
        Kind, for messages, such as ``Tokenizer``.
    entry_points : str
        Group of entry points, such as ``fmritok.tokenizers``.
    table : dict of str to str
        Our own: name to ``module:attribute``, imported at use.
    error : type
        Error for an unknown name.
    """

    kind: str
    entry_points: str
    table: Mapping[str, str]
    error: type[FmritokError] = FmritokError

    def names(self) -> list[str]:
        """Return all names, sorted. Our own hide entry points of the same name."""
        return sorted({*self.table, *self.foreign()})

    def foreign(self) -> dict[str, EntryPoint]:
        """Return the entry points of other distributions by name."""
        found = entry_points(group=self.entry_points)
        return {point.name: point for point in found if point.name not in self.table}

    def find(self, name: str) -> Any:
        """Import and return a plug-in.

        Raises
        ------
        FmritokError
            If the name is unknown, or an entry point cannot be imported.
        """
        if name in self.table:
            module, _, attribute = self.table[name].partition(":")
            return getattr(import_module(module), attribute)
        foreign = self.foreign()
        if name not in foreign:
            near = get_close_matches(name, self.names(), n=1)
            raise wrong_usage(self.error(
                expected(self.kind, name, f"one of {', '.join(self.names())}", "an unknown name",
                         f"Did you mean {near[0]}?" if near else "Choose one of them.")
            ))  # fmt: skip
        point = foreign[name]
        try:
            return point.load()
        except Exception as error:  # foreign code may raise anything
            of = point.dist.name if point.dist else "another distribution"
            raise self.error(
                expected(self.kind, f"{name} of {of}", f"{point.value} to be imported",
                         f"{type(error).__name__}: {error}", "Correct or remove that distribution.")
            ) from error  # fmt: skip
