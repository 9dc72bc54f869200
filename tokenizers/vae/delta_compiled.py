"""The deviation pass as one compiled function.

The walk of :mod:`fmritok.tokenizers.vae.delta_walk` costs time in Python, and each of its steps
reads and writes GPU memory. For a fixed number of frames it is always the same chain of torch's
operations. The chain is traced once, and compiled: the steps between two products become a few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fmritok.tokenizers.vae.delta_walk import Note

__all__ = ["CompiledWalk"]

#: Of inductor: it may compute a step again where it is used, in place of a tensor in memory.
_OPTIONS = {
    "realize_opcount_threshold": 100,
    "realize_reads_threshold": 8,
    "realize_acc_reads_threshold": 16,
}

Tensor = torch.Tensor
Walk = Callable[[Sequence[Note], Tensor], Tensor]


class CompiledWalk:
    """A walk that is compiled once for each shape of deviations.

    Parameters
    ----------
    walk : callable
        From the notes of one image and deviations (n_frames, channels, height, width) to the
        deviations of latents.
    backend : str
        Of ``torch.compile``.
    """

    def __init__(self, walk: Walk, backend: str = "inductor") -> None:
        self._walk, self._backend = walk, backend
        self._compiled: dict[torch.Size, Walk] = {}

    def __call__(self, notes: Sequence[Note], deviations: Tensor) -> Tensor:
        """Return what the walk returns, up to rounding."""
        shape = deviations.shape
        if shape not in self._compiled:
            self._walk(notes, deviations[:1])  # makes the fp16 weights, which a trace must not make
            chain = make_fx(lambda notes, x: self._walk(notes, x))(notes, deviations)
            options = self._options() if self._backend == "inductor" else None
            self._compiled[shape] = torch.compile(
                chain, backend=self._backend, fullgraph=True, dynamic=False, options=options
            )
        return self._compiled[shape](notes, deviations)

    @staticmethod
    def _options() -> dict[str, Any]:
        known = torch._inductor.list_options()
        return {name: value for name, value in _OPTIONS.items() if name in known}
