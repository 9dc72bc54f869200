"""Group equal reasons, to print each once with the number of items and a few examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["first_few", "grouped"]

_EXAMPLES = 3


def grouped(items: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, list[str]]]:
    """Yield each reason with its names, the most frequent reason first.

    Parameters
    ----------
    items : iterable of (str, str)
        Names and their reasons.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in items:
        names[reason].append(name)
    yield from sorted(names.items(), key=lambda item: -len(item[1]))


def first_few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more
