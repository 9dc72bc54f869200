"""Stretch and squeeze windows in time: a training then sees TRs around that of the runs.

After CortexMAE (Lane et al., arXiv 2510.13768).
"""

from __future__ import annotations

import numpy as np
import torch

from fmritok.device import send
from fmritok.trainer.config import DataConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.objectives.masks import generator_of

__all__ = ["stretched"]

_STRETCH = 9  # random stream, see trainer/objectives/views.py


def stretched(batch: Batch, config: DataConfig) -> Batch:
    """Take random frames of each window and interpolate them to ``config.window`` frames.

    Between ``tr_scale * window`` and ``window / tr_scale`` consecutive frames are taken, both
    rounded, and interpolated linearly; times in seconds follow. Windows with fewer frames than
    ``window / tr_scale``, of short runs, are not stretched: at most ``window`` of their frames are
    taken. All of it depends on the random number of each window alone.

    Parameters
    ----------
    batch : Batch
        Windows of ``config.training_window`` frames. It may be on a device.
    config : DataConfig
        With a ``tr_scale``; without one, the batch is returned as it is.
    """
    if config.tr_scale is None:
        return batch
    window, scale, most = config.window, config.tr_scale, config.training_window
    valid = batch.valid if batch.host_valid is None else batch.host_valid
    lengths = [batch.times.shape[1]] * len(batch.draws)
    if valid is not None:
        lengths = valid.sum(1).tolist()
    spans = []
    for draw, length in zip(batch.draws.tolist(), lengths, strict=True):
        generator = generator_of(draw, _STRETCH)
        taken = frames = min(window, length)
        if length >= most:
            taken = int(generator.integers(round(window * scale), most, endpoint=True))
        first = int(generator.integers(0, length - taken, endpoint=True))
        spans.append((first, taken, frames))
    first_B, taken_B, frames_B = np.array(spans).T
    numbers_T = np.arange(frames_B.max())
    ratio_B = taken_B / frames_B
    # As torch's linear interpolation: frames are intervals, and their centres are interpolated.
    inner_BT = (numbers_T + 0.5) * ratio_B[:, None] - 0.5
    last_B1 = (taken_B - 1)[:, None]
    places_BT = first_B[:, None] + inner_BT.clip(0, last_B1)
    low_BT = np.floor(places_BT).astype(np.int64)
    high_BT = np.minimum(low_BT + 1, first_B[:, None] + last_B1)
    share_BT = (places_BT - low_BT).astype(np.float32)

    device = batch.tokens.device
    low, high, share, ratio = (
        send(torch.from_numpy(x), device)
        for x in (low_BT, high_BT, share_BT, ratio_B.astype(np.float32))
    )
    rows = torch.arange(len(low), device=device)[:, None]
    tokens_BTSD = torch.lerp(
        batch.tokens[rows, low].float(), batch.tokens[rows, high].float(), share[..., None, None]
    )
    host_valid = None
    if (frames_B < len(numbers_T)).any():
        host_valid = torch.from_numpy(numbers_T < frames_B[:, None])
    return batch._replace(
        tokens=tokens_BTSD,
        times=batch.times[:, : len(numbers_T)] * ratio[:, None],
        valid=None if host_valid is None else send(host_valid, device),
        host_valid=host_valid,
        n_frames=int(frames_B.sum()),
    )
