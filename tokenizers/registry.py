"""The tokenizers there are: an explicit table, and an entry-point group for third parties."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from fmritok.pipeline.errors import FmritokError, expected
from fmritok.tokenizers.base import Tokenizer

__all__ = ["build_tokenizer", "tokenizer_names"]

_ENTRY_POINTS = "fmritok.tokenizers"
_TABLE = {
    "flatmap": "fmritok.tokenizers.flatmap:FlatmapTokenizer",
    "network": "fmritok.tokenizers.network:NetworkTokenizer",
    "vae": "fmritok.tokenizers.vae:VaeTokenizer",
}


def tokenizer_names() -> list[str]:
    """Return the names that :func:`build_tokenizer` accepts."""
    return sorted({*_TABLE, *(point.name for point in entry_points(group=_ENTRY_POINTS))})


def build_tokenizer(name: str, options: Mapping[str, Any]) -> Tokenizer:
    """Build a tokenizer from its name and options; nothing heavy is loaded yet.

    Parameters
    ----------
    name : str
    options : dict
        Keyword arguments of the tokenizer's class.

    Raises
    ------
    FmritokError
        If there is no such tokenizer, or it has no such option.
    """
    kind = _find(name)
    known = [p for p in signature(kind).parameters]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1, cutoff=0)
            raise FmritokError(
                expected("Option", f"{name}.{option}", f"one of {', '.join(known) or 'no options'}",
                         "an unknown one", f"Did you mean {name}.{near[0]}?" if near else "")
            )  # fmt: skip
    return kind(**options)


def _find(name: str) -> type[Tokenizer]:
    if name in _TABLE:
        module, _, attribute = _TABLE[name].partition(":")
        kind: type[Tokenizer] = getattr(import_module(module), attribute)
        return kind
    for point in entry_points(group=_ENTRY_POINTS):
        if point.name == name:
            return point.load()  # type: ignore[no-any-return]
    raise FmritokError(
        expected("Tokenizer", name, f"one of {', '.join(tokenizer_names())}", "an unknown name",
                 "Check --tokenizer.")
    )  # fmt: skip
