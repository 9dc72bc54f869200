"""The deviation pass as one compiled function.

The walk of :mod:`fmritok.tokenizers.vae.delta_walk` costs time in Python, and each of its steps reads
and writes GPU memory. For a fixed number of frames it is always the same chain of torch's
operations. The chain is traced once, and compiled: all steps between two products become one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fmritok.tokenizers.vae.delta_walk import Note

__all__ = ["CompiledWalk"]

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
            self._compiled[shape] = torch.compile(
                chain, backend=self._backend, fullgraph=True, dynamic=False
            )
        return self._compiled[shape](notes, deviations)
