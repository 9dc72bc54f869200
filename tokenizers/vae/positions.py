"""Encode a run's slices by ``delta``: slice position outermost, frames as the batch."""

from __future__ import annotations

import torch

from fmritok.tokenizers.vae.arithmetic import equal_batches
from fmritok.tokenizers.vae.delta import Base, DeltaEncoder

__all__ = ["encode_positions"]

#: Base images encoded together, by kind of device: on a GPU, one is too little work.
_TOGETHER = {"cpu": 1, "cuda": 16}


def encode_positions(
    encoder: DeltaEncoder,
    slices: torch.Tensor,
    means: torch.Tensor,
    empty: torch.Tensor,
    fill: float,
    *,
    frames: int,
    tries_kernels: bool,
) -> torch.Tensor:
    """Encode the slices along one axis.

    Parameters
    ----------
    encoder : DeltaEncoder
    slices : torch.Tensor of shape (n_frames, n_positions, height, width)
        On the device that encodes, as the other tensors.
    means : torch.Tensor of shape (n_positions, height, width)
        The run's mean, or an image near it, at each position.
    empty : torch.Tensor of shape (channels, cells, cells)
        Latent of a slice that is all ``fill``. Positions of nothing else are not encoded.
    frames : int
        Frames in a batch. The last is filled up, because another size may round differently.
    tries_kernels : bool
        Whether cuDNN tries its kernels on the first batch.

    Returns
    -------
    torch.Tensor of shape (n_frames, n_positions, channels, cells, cells), float32
    """
    latents = empty.repeat(*slices.shape[:2], 1, 1, 1)
    drawn = torch.stack([(along != fill).any() for along in slices.unbind(1)])
    is_one = bool((means == means[0]).all())  # as in zscore, where the mean of all voxels is 0
    together = _TOGETHER.get(slices.device.type, 1)
    base: Base | None = None
    for some in drawn.cpu().nonzero().flatten().split(together):
        if base is None or not is_one:
            images = means[:1] if is_one else means[some]
            base = encoder.base(_colour(images))
        for number, position in enumerate(some.tolist()):
            image = 0 if is_one else number
            notes, latent = base.notes_of(image), base.latents[image]
            for first in range(0, len(slices), frames):
                part = slices[first : first + frames, position] - means[position]
                filled = part.new_zeros(frames, *part.shape[1:])
                filled[: len(part)] = part
                with equal_batches(tries_kernels):
                    found = encoder.deviations(notes, _colour(filled))[: len(part)]
                latents[first : first + len(part), position] = (latent + found).float()
    return latents


def _colour(images: torch.Tensor) -> torch.Tensor:
    """Repeat grey images (n, height, width) in three channels, without a copy."""
    return images[:, None].expand(-1, 3, -1, -1)
