"""Attention heads of equal initial weights that train side by side, and their optimizer."""

# X = grid points

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AttentionGrid", "GridAdamW"]

_HEAD = 64
_STD = 0.02
_BETAS = (0.9, 0.999)
_EPS = 1e-8


class AttentionGrid(nn.Module):
    """One query that attends to tokens, then a linear output; once for each grid point.

    Keys are linear in the tokens, so the product of query and keys is a product of the tokens with
    one vector for each attention head. Values are linear, too: their weighted mean is that of the
    tokens, projected. Keys and values of single tokens are never computed. A bias of the keys adds
    the same number to all tokens and has no effect.

    Parameters
    ----------
    width : int
        Features of a token. Heads have 64 features; fewer tokens' features make one head.
    n_outputs, size : int
        Outputs, and grid points.
    seed : int
        Of the initial weights, equal for all grid points.
    """

    def __init__(self, width: int, n_outputs: int, size: int, *, seed: int) -> None:
        super().__init__()
        self.n_outputs, self.size = n_outputs, size
        self.head_width = min(_HEAD, width)
        self.n_heads = width // self.head_width
        inner = self.n_heads * self.head_width
        self.chosen: dict[str, Any] = {}
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            weights = torch.empty(shape)
            nn.init.trunc_normal_(weights, std=_STD, generator=generator)
            return nn.Parameter(weights.expand(size, *shape).clone())

        self.query = drawn(self.n_heads, self.head_width)
        self.key = drawn(self.n_heads, self.head_width, width)
        self.value = drawn(self.n_heads, self.head_width, width)
        self.value_bias = nn.Parameter(torch.zeros(size, self.n_heads, self.head_width))
        self.output = drawn(n_outputs, inner)
        self.output_bias = nn.Parameter(torch.zeros(size, n_outputs))
        self.register_buffer("running", torch.ones(size))

    running: Tensor

    def forward(self, x_BNW: Tensor, there_BN: Tensor | None = None) -> Tensor:
        """Return outputs (X, B, n_outputs) of tokens; False in ``there_BN`` is padding."""
        B, _, W = x_BNW.shape
        X, H, J = self.query.shape
        direction_XHW = torch.einsum("xhj,xhjw->xhw", self.query, self.key) / J**0.5
        scores = x_BNW @ direction_XHW.view(X * H, W).T
        if there_BN is not None:
            scores = scores.masked_fill(~there_BN[:, :, None], -torch.inf)
        pooled = scores.softmax(1).transpose(1, 2) @ x_BNW
        pooled_XHBW = pooled.view(B, X, H, W).permute(1, 2, 0, 3)
        values_XHBJ = pooled_XHBW @ self.value.transpose(2, 3) + self.value_bias[:, :, None]
        joined = values_XHBJ.permute(0, 2, 1, 3).reshape(X, B, H * J)
        outputs: Tensor = joined @ self.output.transpose(1, 2) + self.output_bias[:, None]
        return outputs

    def stop(self, points_X: Tensor) -> None:
        """Set the weights of some grid points to 0 for good."""
        if bool(points_X.any()):
            self.running[points_X] = 0.0
            with torch.no_grad():
                for weights in self.parameters():
                    weights[points_X] = 0.0

    def one(self, point: int) -> AttentionGrid:
        """Return a copy of one grid point, as a grid of one."""
        width = self.key.shape[3]
        copy = AttentionGrid(width, self.n_outputs, 1, seed=0).to(self.query.device)
        with torch.no_grad():
            for mine, other in zip(copy.parameters(), self.parameters(), strict=True):
                mine.copy_(other[point : point + 1])
        return copy


class GridAdamW:
    """AdamW with a learning rate for each grid point; gradients are clipped for each.

    Parameters
    ----------
    grid : AttentionGrid
    rates : torch.Tensor of shape (X,)
    weight_decay : float
        Of weights, not of biases.
    clip : float
        Largest norm of a grid point's gradient.
    """

    def __init__(
        self, grid: AttentionGrid, rates: Tensor, weight_decay: float, clip: float
    ) -> None:
        self.grid, self.rates, self.clip = grid, rates, clip
        self._decay = [0.0 if "bias" in name else weight_decay for name, _ in
                       grid.named_parameters()]  # fmt: skip
        self._weights = list(grid.parameters())
        self._means = [torch.zeros_like(w) for w in self._weights]
        self._squares = [torch.zeros_like(w) for w in self._weights]
        self._steps = 0

    def step(self, losses_X: Tensor, share: float) -> None:
        """Follow the gradient of the mean loss.

        Parameters
        ----------
        losses_X : torch.Tensor of shape (X,)
        share : float
            Of the learning rates, by the schedule.
        """
        self._steps += 1
        gradients = torch.autograd.grad(losses_X.mean(), self._weights)
        norms_X = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        scale_X = (self.clip / (norms_X + 1e-6)).clamp(max=1.0)
        first, second = (1 - beta**self._steps for beta in _BETAS)
        rates_X = self.rates * share * self.grid.running
        with torch.no_grad():
            for w, g, mean, square, decay in zip(
                self._weights, gradients, self._means, self._squares, self._decay, strict=True
            ):
                over = (-1, *[1] * (w.ndim - 1))
                g = g * scale_X.view(over)
                mean.lerp_(g, 1 - _BETAS[0])
                square.mul_(_BETAS[1]).addcmul_(g, g, value=1 - _BETAS[1])
                rate = rates_X.view(over)
                change = mean / first / ((square / second).sqrt() + _EPS) + decay * w
                w.sub_(torch.where(rate > 0, rate * change, 0.0))  # a stopped one may have NaN
