"""Steps that were begun. On a GPU, their figures are read while the next step computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fmritok.device import Fetch

__all__ = ["BegunSteps", "Step"]

About = TypeVar("About")


class Step:
    """A step that was begun, over all processes. Reading a figure waits for the device.

    Parameters
    ----------
    loss, grad_norm : Tensor
        Scalars; the norm is that of the gradient before it is clipped.
    measures : dict of str to Tensor
        Scalars; empty unless requested.
    lr : float
    n_windows, n_frames : int
    """

    def __init__(
        self,
        loss: Tensor,
        grad_norm: Tensor,
        measures: dict[str, Tensor],
        *,
        lr: float,
        n_windows: int,
        n_frames: int,
    ) -> None:
        self.lr, self.n_windows, self.n_frames = lr, n_windows, n_frames
        self._measured = list(measures)
        figures = torch.stack([x.double() for x in (loss, grad_norm, *measures.values())])
        self._on_gpu = figures.is_cuda
        self._fetch = Fetch(figures)

    @property
    def is_behind(self) -> bool:
        """Whether the device computes on its own, behind the host."""
        return self._on_gpu

    @cached_property
    def _figures(self) -> list[float]:
        figures: list[float] = self._fetch.wait().tolist()
        return figures

    @property
    def is_computing(self) -> bool:
        """Whether the device still computes the figures."""
        return not self._fetch.is_done

    @property
    def loss(self) -> float:
        """Loss of the step."""
        return self._figures[0]

    @property
    def grad_norm(self) -> float:
        """Norm of the gradient before it is clipped."""
        return self._figures[1]

    @property
    def measures(self) -> dict[str, float]:
        """Measures by name; empty unless requested."""
        return dict(zip(self._measured, self._figures[2:], strict=True))

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite; otherwise the weights are lost."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class BegunSteps(Generic[About]):
    """Steps whose figures were not read yet.

    A host that reads the loss of each step before it begins the next one leaves a GPU without
    work in between. So the figures of a step are read when the next one was begun. On a CPU, and
    at the end, they are read at once.

    Parameters
    ----------
    settle : callable
        Takes a step, whose figures it may read, and what was noted about it. Called in order.
    """

    def __init__(self, settle: Callable[[Step, About], None]) -> None:
        self._settle = settle
        self._begun: list[tuple[Step, About]] = []

    def add(self, step: Step, about: About) -> None:
        """Settle the step before; on a CPU, this one, too."""
        self._begun.append((step, about))
        self._settle_all_but(1 if step.is_behind else 0)

    @property
    def is_computing(self) -> bool:
        """Whether the device still computes one of them."""
        return any(step.is_computing for step, _ in self._begun)

    def finish(self) -> None:
        """Settle all steps."""
        self._settle_all_but(0)

    def _settle_all_but(self, kept: int) -> None:
        while len(self._begun) > kept:
            self._settle(*self._begun.pop(0))
