"""Throughput of a training: tokens per second, and the time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fmritok.trainer.data.reading import Batch

__all__ = ["Meter", "Rate"]


class Meter:
    """Iterates over batches and measures the time of each step and the time waiting for data.

    Parameters
    ----------
    batches : iterable of Batch
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)
        self._start = self._waited = 0.0
        self._steps = 0
        self._total = np.zeros(3)

    def next(self) -> Batch:
        """Wait for the next batch."""
        self._start = time.perf_counter()
        batch = next(self._batches)
        self._waited = time.perf_counter() - self._start
        return batch

    def finish(self, n_tokens: int) -> Rate:
        """End the step that :meth:`next` began, and return its rate."""
        step = np.array([n_tokens, time.perf_counter() - self._start, self._waited])
        self._steps += 1
        if self._steps > 1:  # the first step includes the start of the workers
            self._total += step
        return Rate.of(step)

    def close(self) -> None:
        """Drop the loader to end its workers, which ignore signals."""
        self._batches = iter(())

    @property
    def overall(self) -> Rate:
        """Rate of all steps but the first."""
        return Rate.of(self._total)


class Rate(NamedTuple):
    """Throughput of training."""

    tokens_per_s: float
    stall_share: float
    """share of the time spent waiting for data"""

    @classmethod
    def of(cls, figures: npt.NDArray[np.float64]) -> Rate:
        """Take the rate from tokens, seconds and seconds waited."""
        tokens, seconds, waited = figures.tolist()
        return cls(tokens / seconds, waited / seconds) if seconds else cls(0.0, 0.0)
