"""The tokenizers there are: an explicit table, and an entry-point group for third parties."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from fmritok.errors import FmritokError, expected, wrong_usage
from fmritok.registry import Registry
from fmritok.tokenizers.base import Tokenizer

__all__ = ["TOKENIZERS", "build_tokenizer"]

TOKENIZERS = Registry(
    "Tokenizer",
    "--tokenizer",
    "fmritok.tokenizers",
    {
        "flatmap": "fmritok.tokenizers.flatmap.tokenizer:FlatmapTokenizer",
        "network": "fmritok.tokenizers.network.tokenizer:NetworkTokenizer",
        "vae": "fmritok.tokenizers.vae.tokenizer:VaeTokenizer",
    },
)


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
    return kind(**options)
