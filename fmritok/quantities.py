"""Sizes, times and numbers of things as text."""

from __future__ import annotations

__all__ = ["count", "duration", "size"]

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def count(number: int, thing: str) -> str:
    """Return a number of things as text, such as ``1 run`` or ``1,200 frames``."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def size(n_bytes: float) -> str:
    """Return a number of bytes as text, such as ``3.2 MB``; 1 kB is 1,000 bytes."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
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
