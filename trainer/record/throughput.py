"""Throughput of a training: tokens per second, and the time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fmritok.trainer.data.reading import Batch

__all__ = ["Meter", "Rate"]


class Meter:
    """Iterates over batches and measures the time of each step and the time waiting for data.

    A step may begin before the one before is finished: its time counts from there on.

    Parameters
    ----------
    batches : iterable of Batch
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)
        self._start = self._waited = 0.0
        self._begun = self._finished = 0
        self._total = np.zeros(3)

    def next(self, is_computing: Callable[[], bool] = lambda: False) -> Batch:
        """Begin a step: wait for the next batch.

        Parameters
        ----------
        is_computing : callable
            Whether the device still computes the step before. Then it did not wait.
        """
        start = time.perf_counter()
        if self._begun == self._finished:
            self._start = start
        batch = next(self._batches)
        if not is_computing():
            self._waited += time.perf_counter() - start
        self._begun += 1
        return batch

    def finish(self, n_tokens: int) -> Rate:
        """End the oldest step that :meth:`next` began, and return its rate."""
        now = time.perf_counter()
        step = np.array([n_tokens, now - self._start, self._waited])
        self._start, self._waited = now, 0.0
        self._finished += 1
        if self._finished > 1:  # the first step includes the start of the workers
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
