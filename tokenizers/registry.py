"""Registry of tokenizers: an explicit table, and an entry-point group for third parties."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from fmritok.errors import FmritokError, expected, wrong_usage
from fmritok.registry import Registry
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.option_types import check_types

__all__ = ["TOKENIZERS", "build_tokenizer"]

TOKENIZERS = Registry(
    "Tokenizer",
    "fmritok.tokenizers",
    {
        "flatmap": "fmritok.tokenizers.flatmap.tokenizer:FlatmapTokenizer",
        "network": "fmritok.tokenizers.network.tokenizer:NetworkTokenizer",
        "vae": "fmritok.tokenizers.vae.tokenizer:VaeTokenizer",
    },
)


def build_tokenizer(name: str, options: Mapping[str, Any]) -> Tokenizer:
    """Build a tokenizer from its name and options, without loading its weights.

    Parameters
    ----------
    name : str
    options : dict
        Keyword arguments of its class.

    Raises
    ------
    FmritokError
        If the name or an option is unknown, or a value is of another type.
    """
    kind: type[Tokenizer] = TOKENIZERS.find(name)
    known = [p for p in signature(kind).parameters]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            raise wrong_usage(FmritokError(
                expected("Option", f"{name}.{option}", f"one of {', '.join(known) or 'no options'}",
                         "an unknown one",
                         f"Did you mean {name}.{near[0]}?" if near else "Choose one of them.")
            ))  # fmt: skip
    check_types(name, kind, options)
    return kind(**options)
