"""How far the runs at work are: told by whatever process tokenizes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Follow", "Teller", "followed"]

#: Called with a run's id and the share of its work that is done, from 0 to 1.
Follow = Callable[[str, float], None]

#: A run tells no more often, s.
_EVERY_S = 2.0


class Teller:
    """Tells how much of one run is done.

    Parameters
    ----------
    run_id : str
    work : float
        All there is to do: frames to read, and to encode for each group.
    follow : callable, optional
        Who is told in this process.
    topic : str
        Topic of events of Dask, for work on a cluster; empty if there is none.
    """

    def __init__(self, run_id: str, work: float, follow: Follow | None, topic: str) -> None:
        self._run_id, self._work, self._topic = run_id, max(work, 1.0), topic
        self._follow = follow or (self._send if topic else None)
        self._done, self._next = 0.0, time.monotonic() + _EVERY_S

    def add(self, frames: float) -> None:
        """Count frames as done."""
        self._done += frames
        if self._follow and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            self._follow(self._run_id, min(1.0, self._done / self._work))

    def _send(self, run_id: str, share: float) -> None:
        from distributed import get_worker

        try:
            get_worker().log_event(self._topic, [run_id, share])
        except ValueError:  # not on a worker
            self._follow = None


def followed(client: Client, topic: str, follow: Follow) -> None:
    """Call back with what the workers of a cluster tell."""

    def told(event: tuple[float, list]) -> None:
        run_id, share = event[1]
        follow(str(run_id), float(share))

    client.subscribe_topic(topic, told)
