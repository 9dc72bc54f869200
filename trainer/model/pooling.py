"""Pool the output of the encoder into one vector of each window."""

# X = W, 2 * W or (C + 1) * W

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fmritok.trainer.model.model import EncoderOutput

__all__ = ["Pool", "mean_over_time", "pooled", "pooled_width"]

Pool = Literal["cls", "mean", "both", "cells"]


def pooled_width(pool: Pool, *, width: int, n_cells: int) -> int:
    """Return the number of features that :func:`pooled` gives."""
    return width * {"cls": 1, "mean": 1, "both": 2, "cells": n_cells + 1}[pool]


def pooled(encoded: EncoderOutput, valid_BU: Tensor | None, pool: Pool) -> Tensor:
    """Pool tokens over time, padding left out.

    Parameters
    ----------
    encoded : EncoderOutput
        With all patches.
    valid_BU : torch.Tensor of shape (B, U), bool, optional
        False in patches of padding.
    pool : {"cls", "mean", "both", "cells"}
        CLS; the mean token; the mean token, then CLS; the mean token of each cell, then CLS.

    Returns
    -------
    torch.Tensor of shape (B, X)
    """
    if pool == "cls":
        return encoded.cls
    tokens_BUX = encoded.tokens.flatten(2) if pool == "cells" else encoded.tokens.mean(2)
    mean_BX = mean_over_time(tokens_BUX, valid_BU)
    return mean_BX if pool == "mean" else torch.cat([mean_BX, encoded.cls], dim=1)


def mean_over_time(x_BUX: Tensor, valid_BU: Tensor | None) -> Tensor:
    """Average features of patches over time, padding left out.

    Parameters
    ----------
    x_BUX : torch.Tensor of shape (B, U, ...)
    valid_BU : torch.Tensor of shape (B, U), bool, optional
        False in patches of padding.

    Returns
    -------
    torch.Tensor of shape (B, ...)
    """
    if valid_BU is None:
        return x_BUX.mean(1)
    weight_BUX = valid_BU.to(x_BUX.dtype).view(*valid_BU.shape, *[1] * (x_BUX.ndim - 2))
    return (x_BUX * weight_BUX).sum(1) / weight_BUX.sum(1)
