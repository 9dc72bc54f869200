"""Pool the output of the encoder into one vector of each window."""

# X = W, 2 * W or (C + 1) * W

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fmritok.trainer.model.model import EncoderOutput

__all__ = ["Pool", "pooled", "pooled_width"]

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
    if valid_BU is None:
        mean_BX = tokens_BUX.mean(1)
    else:
        weight_BU1 = valid_BU[:, :, None].to(tokens_BUX.dtype)
        mean_BX = (tokens_BUX * weight_BU1).sum(1) / weight_BU1.sum(1)
    return mean_BX if pool == "mean" else torch.cat([mean_BX, encoded.cls], dim=1)
