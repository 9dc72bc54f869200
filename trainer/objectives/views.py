"""Two views of a window for self-distillation: cropping, augmentation and masking.

After Brain-Semantoks (Gijsen et al., arXiv 2512.11582). All random numbers follow from the
random number of each window. They depend neither on the batch nor on the process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmritok.device import send
from fmritok.trainer.config import ObjectiveConfig, require
from fmritok.trainer.objectives.masks import generator_of

__all__ = [
    "Crop", "ViewConfig", "augment", "crop_frames", "default_crop", "slice_mask", "standardize",
]  # fmt: skip

_STILL = 1e-3  # standard deviations of the run: smaller changes are rounding errors
_START, _AUGMENT, _SLICE = 1, 3, 5  # random stream by purpose; plus 1 for the second view
_SLICED_BATCH = 7


@dataclass(frozen=True, kw_only=True)
class ViewConfig(ObjectiveConfig):
    """Options of two views of a window.

    Attributes
    ----------
    crop : int or None
        Frames of a view. None: two thirds of the window, or half of it with ``apart``.
    apart : bool
        Take the views from different halves of the window. Overlapping views can be matched by
        their common frames, separate views only by properties of the subject.
    standardize : bool
        Bring each view to mean 0 and standard deviation 1 over its own frames.
    slice_probability : float
        Probability that a part of the student's view is hidden.
    slice_draw : {"window", "batch"}
        Whether something is hidden is drawn for each view of each window, or at once for all views
        of a batch. Each process, and each part of a step, has batches of its own.
    slice_low, slice_high : float
        Smallest and largest share of the hidden part: consecutive patches of all cells, or whole
        cells.
    slice_sizes : {"even", "published"}
        even: the share is drawn evenly, and the number is that share, rounded down. published: of
        ``n`` cells an integer from ``low n`` to below ``high n`` (both rounded down); of patches
        one less than the share, rounded up. Of 9 networks, 5 to 7 are hidden, or 5 and 6.
    drop_tokens : float
        Largest share of the stored tokens that is set to 0.
    drop_time : float
        Largest share of the frames, in one block, that is set to 0.
    jitter : float
        Views are multiplied by a factor between 1 - jitter and 1 + jitter.
    noise : float
        Standard deviation of added noise, in standard deviations of the run.
    """

    crop: int | None = None
    apart: bool = False
    standardize: bool = False
    slice_probability: float = 0.5
    slice_draw: Literal["window", "batch"] = "window"
    slice_low: float = 0.65
    slice_high: float = 0.85
    slice_sizes: Literal["even", "published"] = "even"
    drop_tokens: float = 0.1
    drop_time: float = 0.3
    jitter: float = 0.2
    noise: float = 0.1

    def __post_init__(self) -> None:
        fits = self.crop is None or self.crop >= 1
        require(fits, "objective.crop", "1 or more, or null", self.crop)
        for name in ("slice_probability", "drop_tokens", "drop_time", "jitter"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"objective.{name}", "between 0 and 1", value)
        require(self.noise >= 0, "objective.noise", "0 or more", self.noise)
        fits = 0 < self.slice_low <= self.slice_high < 1
        wanted = f"above 0 and at most objective.slice_high = {self.slice_high}, which is below 1"
        require(fits, "objective.slice_low", wanted, self.slice_low)


class Crop(NamedTuple):
    """Consecutive frames of each window."""

    frames: Tensor
    """[B T S D]"""
    times: Tensor
    """[B T], seconds from the crop's first frame"""
    valid: Tensor | None
    """[B T], bool, on the host"""


def default_crop(window: int, patch: int, *, apart: bool = False) -> int:
    """Return about two thirds of a window, or half if views lie apart, in whole patches."""
    frames = window // 2 if apart else 2 * window // 3
    return max(patch, frames // patch * patch)


def crop_frames(
    frames_BTSD: Tensor,
    times_BT: Tensor,
    valid_BT: Tensor | None,
    draws: Tensor,
    *,
    length: int,
    view: int,
    apart: bool = False,
) -> Crop:
    """Take a random crop of each window; windows shorter than a crop are taken whole.

    With ``apart``, the first view lies in the first half of the window and the second view in the
    second half, if the window is long enough. ``valid_BT`` is on the host.
    """
    T = frames_BTSD.shape[1]
    length = min(length, T)
    frames_in = [T] * len(draws) if valid_BT is None else valid_BT.sum(1).tolist()
    starts = []
    for draw, n in zip(draws.tolist(), frames_in, strict=True):
        low, high = 0, max(n - length, 0)
        if apart and view == 0:
            high = max(n // 2 - length, 0)
        elif apart:
            low = min(n // 2, high)
        starts.append(int(generator_of(draw, _START + view).integers(low, high, endpoint=True)))
    host_BT = torch.tensor(starts)[:, None] + torch.arange(length)
    index_BT = send(host_BT, frames_BTSD.device)
    chosen_BT11 = index_BT[:, :, None, None].expand(-1, -1, *frames_BTSD.shape[2:])
    crop_times_BT = times_BT.gather(1, index_BT)
    crop_valid_BT = None if valid_BT is None else valid_BT.gather(1, host_BT)
    if crop_valid_BT is not None and bool(crop_valid_BT.all()):
        crop_valid_BT = None
    return Crop(
        frames_BTSD.gather(1, chosen_BT11), crop_times_BT - crop_times_BT[:, :1], crop_valid_BT
    )


def standardize(crop: Crop) -> Tensor:
    """Bring each feature to mean 0 and standard deviation 1 over the crop's own frames [B T S D].

    Frames that are padding, and features that do not vary over the crop, become 0.
    """
    if crop.valid is None:
        weight_BT11 = torch.ones_like(crop.frames[:, :, :1, :1])
    else:
        valid_BT = send(crop.valid, crop.frames.device)
        weight_BT11 = valid_BT[:, :, None, None].to(crop.frames.dtype)
    count_B111 = weight_BT11.sum(1, keepdim=True)
    mean_B1SD = (crop.frames * weight_BT11).sum(1, keepdim=True) / count_B111
    centred_BTSD = (crop.frames - mean_B1SD) * weight_BT11
    std_B1SD = (centred_BTSD.square().sum(1, keepdim=True) / count_B111).sqrt()
    return centred_BTSD * torch.where(std_B1SD > _STILL, 1 / std_B1SD, 0.0)


def augment(frames_BTSD: Tensor, draws: Tensor, config: ViewConfig, *, view: int) -> Tensor:
    """Drop tokens and a block of time, scale, add noise; frames are in standard deviations.

    Up to ``drop_tokens`` of the stored tokens and one block of up to ``drop_time`` of the frames
    (of each at least one, but never all) become 0; all is multiplied by 1 +- ``jitter``;
    ``noise`` is a standard deviation.
    """
    T, S = frames_BTSD.shape[1:3]
    factors = np.ones((len(draws), T, S), np.float32)
    noise = []
    for factor, draw in zip(factors, draws.tolist(), strict=True):
        generator = generator_of(draw, _AUGMENT + view)
        if config.drop_tokens:
            n_dropped = min(max(1, int(generator.uniform(0, config.drop_tokens) * S)), S - 1)
            factor[:, generator.permutation(S)[:n_dropped]] = 0
        length = int(generator.uniform(0, config.drop_time) * T)
        if config.drop_time:
            length = min(max(1, length), T - 1)
        first = int(generator.integers(0, T - length, endpoint=True))
        factor[first : first + length] = 0
        factor *= generator.uniform(1 - config.jitter, 1 + config.jitter)
        if config.noise:
            seed = int(generator.integers(2**63 - 1))
            own = torch.Generator(frames_BTSD.device).manual_seed(seed)
            noise.append(torch.randn(frames_BTSD.shape[1:], generator=own, device=own.device))
    out = frames_BTSD * send(torch.from_numpy(factors), frames_BTSD.device)[..., None]
    return out.add_(torch.stack(noise), alpha=config.noise) if noise else out


def slice_mask(
    draws: Tensor,
    valid_BU: Tensor | None,
    config: ViewConfig,
    *,
    n_patches: int,
    n_cells: int,
    view: int,
) -> Tensor:
    """Choose the patches and cells to hide from the student in each window's view [B U C], bool.

    With ``slice_probability``, a share between ``slice_low`` and ``slice_high`` is hidden, see
    :class:`ViewConfig`: of consecutive patches of all cells, or of whole cells, with equal
    probability. At least one of them is hidden and one stays visible; a single one stays visible.
    Padded patches are not chosen. ``valid_BU`` and the result are on the host.
    """
    n_valid = [n_patches] * len(draws) if valid_BU is None else valid_BU.sum(1).tolist()
    hidden = np.zeros((len(draws), n_patches, n_cells), dtype=bool)
    by_batch = config.slice_draw == "batch"
    some = generator_of(int(draws[0]), _SLICED_BATCH).random() < config.slice_probability
    if by_batch and not some:
        return torch.from_numpy(hidden)
    for mask, draw, n_own in zip(hidden, draws.tolist(), n_valid, strict=True):
        generator = generator_of(draw, _SLICE + view)
        if generator.random() >= config.slice_probability and not by_batch:
            continue
        share = generator.uniform(config.slice_low, config.slice_high)
        in_time = generator.random() < 0.5
        n = n_own if in_time else n_cells
        if n < 2:
            continue
        n_hidden = int(share * n)
        if config.slice_sizes == "published" and in_time:
            n_hidden = math.ceil(share * n) - 1
        elif config.slice_sizes == "published":
            low, high = int(config.slice_low * n), int(config.slice_high * n)
            n_hidden = int(generator.integers(low, max(high, low + 1)))
        n_hidden = min(max(n_hidden, 1), n - 1)
        if in_time:
            first = int(generator.integers(0, n - n_hidden, endpoint=True))
            mask[first : first + n_hidden] = True
        else:
            mask[:n_own, generator.permutation(n)[:n_hidden]] = True
    return torch.from_numpy(hidden)
