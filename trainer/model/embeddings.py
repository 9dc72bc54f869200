"""Input embeddings: from a patch to a vector of the model's width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmritok.trainer.model.layout import TokenLayout

__all__ = ["LongConvolution", "NetworkEmbedding", "SingleNetworkEmbedding", "linear_embedding"]

_TAPS = 4
_DECAY = 2.0


def linear_embedding(n_features: int, width: int, *, norm: bool) -> nn.Sequential:
    """Make a linear embedding of a patch; ``norm``: LayerNorm over its features first."""
    norms = [nn.LayerNorm(n_features)] if norm else []
    return nn.Sequential(*norms, nn.Linear(n_features, width))


class LongConvolution(nn.Module):
    """Depthwise convolution with long kernels of few parameters.

    After Li et al. (arXiv 2210.09298), as used by Brain-Semantoks. A kernel is made of sub-kernels
    of 4 taps. The first two cover 4 lags each; every further one is stretched over twice the lags
    of the one before. Weights halve from one sub-kernel to the next. The initial norm of a kernel
    is 1. A learned multiple of the input is added.

    Parameters
    ----------
    channels : int
    heads : int
        Kernels per channel.
    length : int
        Frames of the input, the largest length of a kernel.
    causal : bool
        As in release 0.1: tap m weighs the input m frames back, and the channels of a head share
        the multiple that is added. By default, as published, the tap in the middle of the kernel
        weighs the present, and each channel has its own multiple.
    """

    start_norm: Tensor

    def __init__(self, channels: int, *, heads: int, length: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        taps = min(_TAPS, length)
        scales = 1 + max(0, int(math.log2(length / taps)))
        self.kernels = nn.Parameter(torch.randn(scales, channels, heads, taps))
        self.skip = nn.Parameter(torch.randn(heads) if causal else torch.randn(channels, heads))
        self.register_buffer("start_norm", torch.ones(channels, heads, 1))
        with torch.no_grad():
            self.start_norm.copy_(self.kernel().norm(dim=-1, keepdim=True))

    def kernel(self) -> Tensor:
        """Return the full kernels, the tap of the latest frame first [E H Y]."""
        scales = len(self.kernels)
        parts = [
            part.repeat_interleave(2 ** max(scale - 1, 0), dim=-1) * _DECAY ** (scales - 1 - scale)
            for scale, part in enumerate(self.kernels)
        ]
        return torch.cat(parts, dim=-1) / self.start_norm

    def forward(self, x_NEP: Tensor) -> Tensor:
        """Return [N E*H P]: the heads of the first channel, then those of the second, ...

        Patches are short: a matrix product per channel is several times faster than torch's
        depthwise convolution.
        """
        kernel_EHY = self.kernel()
        channels, heads, taps = kernel_EHY.shape
        times = torch.arange(x_NEP.shape[-1], device=x_NEP.device)
        lag_PP = times - times[:, None]
        tap_PP = lag_PP if self.causal else lag_PP + taps // 2
        reached_PP = (tap_PP >= 0) & (tap_PP < taps)
        matrix_EHPP = kernel_EHY[..., tap_PP.clamp(0, taps - 1)] * reached_PP
        matrix_EHPP = matrix_EHPP + self.skip[..., None, None] * (lag_PP == 0)
        matrix_EPX = matrix_EHPP.transpose(1, 2).flatten(2)
        y_NEX = torch.bmm(x_NEP.transpose(0, 1), matrix_EPX).transpose(0, 1)
        return torch.unflatten(y_NEX, 2, (heads, -1)).flatten(1, 2)


class SingleNetworkEmbedding(nn.Module):
    """Embedding of one network: time courses of its parcels in a patch, to one vector.

    Half of the features come from a dense convolution over all parcels, half from long
    convolutions of each parcel. A nonlinearity, the mean over the patch and a LayerNorm follow.
    """

    def __init__(self, parcels: int, *, patch: int, width: int, causal: bool = False) -> None:
        super().__init__()
        self.parcels, half = parcels, width // 2
        heads = math.ceil(half / parcels)
        self.dense = nn.Conv1d(parcels, width - half, 3, padding=1)
        self.long = LongConvolution(parcels, heads=heads, length=patch, causal=causal)
        self.mix = nn.Linear(parcels * heads, half)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_NEP: Tensor) -> Tensor:
        """Return [N W]."""
        dense_NPW = self.dense(x_NEP).mT
        long_NPW = self.mix(self.long(x_NEP).mT)
        pooled_NW = F.gelu(torch.cat([dense_NPW, long_NPW], dim=-1)).mean(1)
        normed_NW: Tensor = self.norm(pooled_NW)
        return normed_NW


class NetworkEmbedding(nn.Module):
    """One embedding per network; ``causal``: see :class:`LongConvolution`."""

    def __init__(self, layout: TokenLayout, width: int, *, causal: bool = False) -> None:
        super().__init__()
        self.patch = layout.patch
        self.networks = nn.ModuleList(
            SingleNetworkEmbedding(parcels, patch=layout.patch, width=width, causal=causal)
            for parcels in layout.sizes
        )

    def forward(self, x_BUCF: Tensor) -> Tensor:
        """Return [B U C W]."""
        B, U = x_BUCF.shape[:2]
        x_NCPE = torch.unflatten(x_BUCF, -1, (self.patch, -1)).flatten(0, 1)
        tokens = [
            network(x_NCPE[:, i, :, : network.parcels].mT)
            for i, network in enumerate(self.networks)
        ]
        return torch.unflatten(torch.stack(tokens, dim=1), 0, (B, U))
