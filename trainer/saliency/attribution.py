"""Integrated gradients of a number with respect to the tokens, summed over time.

The path goes from tokens of 0, the mean of the run for residuals, to the tokens of a window
(Sundararajan et al. 2017, arXiv:1703.01365; computed by captum). The attributions of a window add
up to the change of the number along the path; how nearly is returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.progress import tracked
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.saliency.readout import Number

__all__ = ["Saliency", "attribute", "saliency_table"]

Floats = npt.NDArray[np.float64]

_STEPS = 16


@dataclass(frozen=True)
class Saliency:
    """Attributions, means over windows.

    Attributes
    ----------
    signed : np.ndarray of shape (n_tokens, dim) or (n_tokens, 1), float64
        Of each stored token; of each pixel on a flat map. Positive: raises the number.
    strength : np.ndarray of the same shape, float64
        Mean of absolute values.
    windows : int
    gap : float
        Difference between the sum of attributions and the change of the number, relative to the
        latter; median over windows.
    """

    signed: Floats
    strength: Floats
    windows: int
    gap: float


def attribute(
    readout: Number, batches: Iterator[Batch], n_batches: int, *, device: torch.device,
    steps: int = _STEPS,
) -> Saliency:  # fmt: skip
    """Average integrated gradients over windows.

    Parameters
    ----------
    readout : Number
    batches : iterator of Batch
    n_batches : int
    device : torch.device
    steps : int
        Of the integral along the path.
    """
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(readout.to(device).eval())
    grid = readout.encoder.grid
    signed: list[Floats] = []
    strength: list[Floats] = []
    gaps: list[float] = []
    windows = 0
    for batch in tracked(batches, n_batches, "batches"):
        inputs = readout.encoder.inputs(batch.to(device))
        more = (inputs.static, inputs.times, inputs.valid)
        patches = inputs.patches.detach()
        found, delta = method.attribute(
            patches, additional_forward_args=more, n_steps=steps,
            internal_batch_size=4 * len(patches), return_convergence_delta=True,
        )  # fmt: skip
        with torch.no_grad():
            change = readout(patches, *more) - readout(torch.zeros_like(patches), *more)
        gaps += (delta.abs() / change.abs().clamp_min(1e-12)).tolist()
        a_BUCPE = torch.unflatten(found, 3, (grid.layout.patch, -1))
        a_BSE = _stored(a_BUCPE.sum((1, 3)).double().cpu().numpy(), readout)
        signed.append(a_BSE.sum(0))
        strength.append(np.abs(a_BSE).sum(0))
        windows += len(a_BSE)
    signed_SE, strength_SE = (np.sum(parts, axis=0) / windows for parts in (signed, strength))
    return Saliency(signed_SE, strength_SE, windows, float(np.median(gaps)))


def _stored(a_BCE: Floats, readout: Number) -> Floats:
    """Return attributions of stored tokens: pixels of a flat map, parcels, else sums of cells."""
    grid = readout.encoder.grid
    if grid.layout.kind == "flatmap":
        return a_BCE
    if grid.layout.kind == "plain":
        return np.asarray(a_BCE.sum(2, keepdims=True))
    members = grid.members.cpu().numpy()
    there = members < grid.layout.n_tokens
    a_BS1 = np.zeros((len(a_BCE), grid.layout.n_tokens, 1))
    a_BS1[:, members[there], 0] = a_BCE[:, there]
    return a_BS1


def saliency_table(group: TokenGroup, found: Saliency) -> pd.DataFrame:
    """Return a row for each stored token: place, name, signed attribution and strength."""
    layout: dict[str, Any] = group.provenance.get("layout", {})
    table = pd.DataFrame({"token": np.arange(len(found.signed))})
    names = layout.get("parcels")
    if names and len(names) == len(table):
        table["parcel"] = list(names)
    if "network" in group.static and layout.get("networks"):
        table["network"] = [layout["networks"][int(n)] for n in group.array("network")]
    if "cell" in group.static:
        table[["row", "column"]] = group.array("cell")
    if "coordinates" in group.static:
        table[["x_mm", "y_mm", "z_mm"]] = np.round(group.array("coordinates"), 1)
    table["signed"] = found.signed.sum(1)
    table["strength"] = found.strength.sum(1)
    return table
