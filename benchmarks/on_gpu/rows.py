"""Rows of a table that do not depend on each other: one that fails leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Rows"]

Found = TypeVar("Found")


class Rows:
    """Rows of a table; none starts after its time.

    Parameters
    ----------
    header : str
    seconds : float
        Time of the table.
    say : callable
        Takes a line.
    """

    def __init__(
        self, header: str, seconds: float, say: Callable[[str], object] | None = None
    ) -> None:
        self._say = say or (lambda line: print(line, flush=True))
        self._end = time.monotonic() + seconds
        self._say(header)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def add(self, name: str, measure: Callable[[], tuple[str, Found]]) -> Found | None:
        """Print a row of what ``measure`` says; return what it found, None if it did not."""
        if self.left < 0:
            self._say(f"{name} left out: the time is over")
            return None
        try:
            said, found = measure()
        except Exception as error:  # the other rows are worth having
            reason = (str(error).splitlines() or [""])[0]
            self._say(f"{name} failed: {type(error).__name__}: {reason}"[:150])
            return None
        self._say(f"{name} {said}")
        return found
