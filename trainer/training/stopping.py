"""Stop a training after the current step on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch

from fmritok.trainer.parallel.distributed import Ranks, total_over_ranks

__all__ = ["StopRequest"]


class StopRequest:
    """Context that records the first SIGINT or SIGTERM. A second one has its usual effect.

    Attributes
    ----------
    signal : str or None
        Name of the received signal.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._previous: dict[int, Any] = {}

    def agreed(self, ranks: Ranks) -> str | None:
        """Return the received signal, or None; if one rank received it, all ranks return one."""
        if ranks.size == 1:
            return self.signal
        asked = total_over_ranks(torch.tensor(float(self.signal is not None)))
        return (self.signal or "a signal to another process") if asked else None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
