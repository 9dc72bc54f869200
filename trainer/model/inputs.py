"""Compute the model's input from stored tokens, in one of three forms, in float32.

The dynamics of a token are small beside its constant part, the anatomy: cast to bfloat16, an
absolute token keeps about a quarter of its time course. The run's mean is therefore subtracted
before any cast. ``absolute``, the published form, does not subtract it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fmritok.trainer.config import InputForm, ModelConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.layout import PatchGrid

__all__ = [
    "PatchInputs", "TokenInputs", "deviations", "fold_inputs", "frame_norm", "model_inputs",
    "normalise_frames", "patch_inputs", "values",
]  # fmt: skip

_CLIP = 3.0


class TokenInputs(NamedTuple):
    """Input of a batch, frame by frame."""

    frames: Tensor
    """tokens of every frame in the chosen form [B T S D], float32; 0 in padded frames"""
    static: Tensor | None
    """the run's mean [B S D], float32; form ``both`` only"""


class PatchInputs(NamedTuple):
    """Input of a batch, patch by patch."""

    patches: Tensor
    """[B U C F], float32; 0 in padded frames and in features that do not exist"""
    static: Tensor | None
    """the run's mean [B S D], float32; form ``both`` of groups with a mean only"""
    times: Tensor
    """seconds from the window's first frame to the patch's [B U], float32"""
    valid: Tensor | None
    """False in patches of padding alone [B U], bool; None if there are none"""
    weight: Tensor | None
    """0 in padded frames, else 1 [B U P], float32; None if there are none"""


def model_inputs(batch: Batch, form: InputForm) -> TokenInputs:
    """Turn stored tokens into the chosen form.

    Parameters
    ----------
    batch : Batch
    form : {"residual", "absolute", "both"}
        ``residual``: (value - run's mean) / run's standard deviation of each feature; 0 for
        constant features. ``absolute``: the value. ``both``: residuals, and the mean once.
    """
    frames_BTSD = values(batch) if form == "absolute" else deviations(batch)
    if batch.valid is not None:
        frames_BTSD = frames_BTSD.masked_fill(~batch.valid[:, :, None, None], 0.0)
    return TokenInputs(frames_BTSD, batch.mean if form == "both" else None)


def patch_inputs(batch: Batch, config: ModelConfig, grid: PatchGrid) -> PatchInputs:
    """Turn stored tokens into patches of the chosen form."""
    frames_BTSD, static_BSD = model_inputs(batch, config.input)
    frames_BTSD = normalise_frames(frames_BTSD, config, grid)
    return fold_inputs(frames_BTSD, static_BSD, batch.times, batch.valid, grid)


def normalise_frames(frames_BTSD: Tensor, config: ModelConfig, grid: PatchGrid) -> Tensor:
    """Standardise frames of flat maps over space if ``config.frame_norm``; return others as is."""
    if grid.layout.kind == "flatmap" and config.frame_norm:
        return frame_norm(frames_BTSD, grid.known)
    return frames_BTSD


def fold_inputs(
    frames_BTSD: Tensor,
    static_BSD: Tensor | None,
    times_BT: Tensor,
    valid_BT: Tensor | None,
    grid: PatchGrid,
) -> PatchInputs:
    """Turn frames into patches."""
    step, weight_BUP = grid.layout.patch, None
    if valid_BT is not None or times_BT.shape[1] % step:
        whole = torch.ones_like(times_BT) if valid_BT is None else valid_BT.float()
        weight_BUP = grid.fold_frames(whole)
    return PatchInputs(
        patches=grid.fold(frames_BTSD),
        static=static_BSD if grid.layout.has_mean else None,
        times=times_BT[:, ::step],
        valid=None if valid_BT is None else valid_BT[:, ::step],
        weight=weight_BUP,
    )


def frame_norm(frames_BTSD: Tensor, known_SD: Tensor) -> Tensor:
    """Standardise each frame over its existing features, and clip at 3 standard deviations.

    A constant frame, such as padding, becomes 0.
    """
    known = known_SD.to(frames_BTSD.dtype)
    count = known.sum()
    mean_BT11 = (frames_BTSD * known).sum((2, 3), keepdim=True) / count
    centred_BTSD = (frames_BTSD - mean_BT11) * known
    std_BT11 = (centred_BTSD.square().sum((2, 3), keepdim=True) / count).sqrt()
    inverse_BT11 = torch.where(std_BT11 > 0, 1 / std_BT11, 0.0)
    return (centred_BTSD * inverse_BT11).clamp(-_CLIP, _CLIP)


def values(batch: Batch) -> Tensor:
    """Return the tokens' values [B T S D], float32."""
    if batch.scale is None:
        return batch.tokens.float()
    return torch.addcmul(batch.mean[:, None], batch.scale[:, None], batch.tokens.float())


def deviations(batch: Batch) -> Tensor:
    """Return deviations from the run's mean in its standard deviations [B T S D], float32."""
    inverse_BSD = torch.where(batch.std > 0, 1 / batch.std, 0.0)
    if batch.scale is None:
        return (batch.tokens.float() - batch.mean[:, None]) * inverse_BSD[:, None]
    return batch.tokens.float() * (batch.scale * inverse_BSD)[:, None]
