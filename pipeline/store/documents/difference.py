"""Find the first field in which two nested configurations differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["first_difference"]


def first_difference(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    """Compare two nested mappings.

    Parameters
    ----------
    one, other : mapping
        Nested mappings of JSON values. A tuple equals a list with the same items.

    Returns
    -------
    tuple of (str, object, object), or None
        Dotted name and both values of the first differing field, in the order of ``one``; None if
        all are equal.
    """
    ours, theirs = dict(_flatten(one)), dict(_flatten(other))
    for name in [*ours, *sorted(theirs.keys() - ours.keys())]:
        if ours.get(name) != theirs.get(name):
            return name, ours.get(name), theirs.get(name)
    return None


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
