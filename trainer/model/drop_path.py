"""Drop path (stochastic depth): in training, windows skip layers at random."""

from __future__ import annotations

from torch import Tensor

__all__ = ["draw_paths", "path_shares"]


def path_shares(share: float, n_layers: int) -> list[float]:
    """Return the share of each layer: from 0 in the first to ``share`` in the last one."""
    return [share * layer / max(n_layers - 1, 1) for layer in range(n_layers)]


def draw_paths(x_BLW: Tensor, share: float) -> Tensor | None:
    """Draw the windows that skip attention, and those that skip the MLP, of a layer.

    Parameters
    ----------
    x_BLW : torch.Tensor of shape (B, L, W)
        Tokens of each window.
    share : float
        Share of the windows.

    Returns
    -------
    torch.Tensor of shape (B, L, 2), or None
        Factor of what attention and MLP add to each token: 0 in windows that skip it, otherwise
        1 / (1 - share), which keeps the mean. None if ``share`` is 0.
    """
    if not share:
        return None
    factors_B12 = x_BLW.new_empty(len(x_BLW), 1, 2).bernoulli_(1 - share) / (1 - share)
    return factors_B12.expand(-1, x_BLW.shape[1], -1)
