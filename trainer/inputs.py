"""From stored tokens to what the model sees: the three input forms, computed in float32.

Dynamics ride on a large constant (the anatomy): an absolute token cast to bfloat16 keeps about a
quarter of its time course. So the run's mean is taken away before any cast, unless the published
way (``absolute``) is asked for.
"""

# B windows, T frames, S tokens of a frame (cells), D features

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fmritok.trainer.config import InputForm
from fmritok.trainer.streaming import Batch

__all__ = ["TokenInputs", "deviations", "model_inputs", "values"]


class TokenInputs(NamedTuple):
    """What the model sees of a batch."""

    frames: Tensor
    """tokens of every frame in the chosen form [B T S D], float32; 0 in padded frames"""
    static: Tensor | None
    """the run's mean [B S D], float32; form ``both`` only"""


def model_inputs(batch: Batch, form: InputForm) -> TokenInputs:
    """Turn stored tokens into the chosen form.

    Parameters
    ----------
    batch : Batch
    form : {"residual", "absolute", "both"}
        ``residual``: (value - run's mean) / run's standard deviation of each feature, 0 where a
        feature never moves. ``absolute``: the value. ``both``: residuals, and the mean once.
    """
    frames_BTSD = values(batch) if form == "absolute" else deviations(batch)
    if batch.valid is not None:
        frames_BTSD = frames_BTSD.masked_fill(~batch.valid[:, :, None, None], 0.0)
    return TokenInputs(frames_BTSD, batch.mean if form == "both" else None)


def values(batch: Batch) -> Tensor:
    """Return the values that the tokenizer wrote [B T S D], float32."""
    if batch.scale is None:
        return batch.tokens.float()
    return torch.addcmul(batch.mean[:, None], batch.scale[:, None], batch.tokens.float())


def deviations(batch: Batch) -> Tensor:
    """Return deviations from the run's mean in its standard deviations [B T S D], float32."""
    inverse_BSD = torch.where(batch.std > 0, 1 / batch.std, 0.0)
    if batch.scale is None:
        return (batch.tokens.float() - batch.mean[:, None]) * inverse_BSD[:, None]
    return batch.tokens.float() * (batch.scale * inverse_BSD)[:, None]
