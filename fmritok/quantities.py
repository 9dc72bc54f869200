"""Counts, sizes and times as text: nouns in the right number, units that fit."""

from __future__ import annotations

__all__ = ["counted", "duration", "plural", "size"]

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def counted(number: float, noun: str) -> str:
    """Return a number with its noun, such as ``1 run``, ``1,200 runs`` or ``2 patches``.

    Parameters
    ----------
    number : float
        Shown without decimals.
    noun : str
        In the singular; see :func:`plural`.
    """
    text = f"{number:,.0f}"
    return f"{text} {noun if text == '1' else plural(noun)}"


def plural(noun: str) -> str:
    """Return the regular plural of a noun: ``runs``, ``patches``, ``families``, ``days``."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def size(n_bytes: float) -> str:
    """Return a number of bytes as text, such as ``3.2 MB``; 1 kB is 1,000 bytes."""
    if n_bytes < 1000:
        return counted(n_bytes, "byte")
    power = 1
    while power < len(_UNITS) and n_bytes / 1000**power >= 999.5:
        power += 1
    number = n_bytes / 1000**power
    return f"{number:,.{0 if number >= 99.95 else 1}f} {_UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """Return a time as text, such as ``45 s``, ``12 min``, ``3 h 20 min`` or ``2 d 5 h``."""
    if seconds < 1:
        return "under 1 s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
