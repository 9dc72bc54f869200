"""Refuse values of a tokenizer's options: of another type than its constructor says, or others."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fmritok.errors import FmritokError, expected, wrong_usage

__all__ = ["check_types", "refused_option"]

#: Types that are checked: what a value has to be, and in words.
_KINDS: dict[Any, tuple[Any, str]] = {
    NoneType: (NoneType, "null"),
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: ((str, PathLike), "text"),
    Mapping: (Mapping, "names with values"),
}


def check_types(name: str, kind: type, options: Mapping[str, Any]) -> None:
    """Refuse an option whose value is of another type than the constructor says.

    Other types than texts, numbers, choices and mappings are left to the constructor.

    Parameters
    ----------
    name : str
        Name of the tokenizer.
    kind : type
        Its class.
    options : dict
        Keyword arguments of the class.

    Raises
    ------
    FmritokError
    """
    for option, value in options.items():
        allowed = _members(_hint(kind, option))
        if not any(_fits(value, one) for one in allowed):
            raise refused_option(f"{name}.{option}", _words(allowed), value)


def refused_option(option: str, wanted: str, value: object) -> FmritokError:
    """Make the error for the value of a tokenizer's option, such as ``network.tr``."""
    return wrong_usage(
        FmritokError(
            expected("Option", option, wanted, repr(value),
                     f"Change it in `options`, on the command line with --set {option}=VALUE.")
        )
    )  # fmt: skip


def _hint(kind: type, option: str) -> Any:
    """Return the type of an option; of one that only type checkers import, ``Any``."""
    constructor: Any = kind.__init__  # type: ignore[misc]
    said = getattr(constructor, "__annotations__", {}).get(option, Any)
    try:
        return get_type_hints(SimpleNamespace(__annotations__={option: said}),
                              globalns=constructor.__globals__)[option]  # fmt: skip
    except NameError:
        return Any


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or a single type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    wanted, _ = _KINDS.get(get_origin(hint) or hint, (object, ""))
    if isinstance(value, bool):
        return wanted in (bool, object)
    return isinstance(value, wanted)


def _words(hints: tuple[Any, ...]) -> str:
    choices = [str(c) for hint in hints if get_origin(hint) is Literal for c in get_args(hint)]
    words = [f"one of {', '.join(choices)}"] if choices else []
    others = (hint for hint in hints if get_origin(hint) is not Literal)
    return " or ".join(words + [_KINDS[get_origin(hint) or hint][1] for hint in others])
