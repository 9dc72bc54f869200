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

_STD_FLOOR = 1e-6


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
    host_valid: Tensor | None = None
    """``valid`` on the host; None if there are none"""


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
    valid_BT, host_BT = batch.valid, batch.host_valid
    return fold_inputs(frames_BTSD, static_BSD, batch.times, valid_BT, grid, host_BT)


def normalise_frames(frames_BTSD: Tensor, config: ModelConfig, grid: PatchGrid) -> Tensor:
    """Standardise frames of flat maps over space if ``config.frame_norm``; return others as is."""
    if grid.layout.kind == "flatmap" and config.frame_norm:
        return frame_norm(frames_BTSD, grid.known, config.frame_clip)
    return frames_BTSD


def fold_inputs(
    frames_BTSD: Tensor,
    static_BSD: Tensor | None,
    times_BT: Tensor,
    valid_BT: Tensor | None,
    grid: PatchGrid,
    host_valid_BT: Tensor | None = None,
) -> PatchInputs:
    """Turn frames into patches; ``host_valid_BT`` is ``valid_BT`` on the host, if it is there."""
    step, weight_BUP = grid.layout.patch, None
    host_BT = valid_BT if host_valid_BT is None else host_valid_BT
    if valid_BT is not None or times_BT.shape[1] % step:
        whole = torch.ones_like(times_BT) if valid_BT is None else valid_BT.float()
        weight_BUP = grid.fold_frames(whole)
    return PatchInputs(
        patches=grid.fold(frames_BTSD),
        static=static_BSD if grid.layout.has_mean else None,
        times=times_BT[:, ::step],
        valid=None if valid_BT is None else valid_BT[:, ::step],
        weight=weight_BUP,
        host_valid=None if host_BT is None else host_BT[:, ::step].cpu(),
    )


def frame_norm(frames_BTSD: Tensor, known_SD: Tensor, clip: float | None = 3.0) -> Tensor:
    """Standardise each frame over its existing features, and clip at ``clip`` deviations.

    As in CortexMAE: n - 1 in the denominator, and 1e-6 added to the deviation. Frames of zeros,
    such as padding, stay 0.
    """
    known = known_SD.to(frames_BTSD.dtype)
    count = known.sum()
    mean_BT11 = (frames_BTSD * known).sum((2, 3), keepdim=True) / count
    centred_BTSD = (frames_BTSD - mean_BT11) * known
    square_BT11 = centred_BTSD.square().sum((2, 3), keepdim=True)
    std_BT11 = (square_BT11 / (count - 1).clamp_min(1)).sqrt()
    normed_BTSD = centred_BTSD / (std_BT11 + _STD_FLOOR)
    return normed_BTSD if clip is None else normed_BTSD.clamp(-clip, clip)


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
