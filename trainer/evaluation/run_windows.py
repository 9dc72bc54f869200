"""Windows of single runs as tensors that data loaders stack, and the encoder that takes them."""

# B runs, K windows of each, N = K * U * C

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmritok.pipeline.store.precision import StoredRun
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.model import TokenTransformer

__all__ = ["EncodedRuns", "WindowEncoder", "run_windows"]


def run_windows(
    stored: StoredRun, tr: float, starts: Sequence[int], length: int
) -> dict[str, Tensor]:
    """Return windows of one run.

    Those of several runs can be stacked, for example by ``torch.utils.data.default_collate``.

    Parameters
    ----------
    stored : StoredRun
    tr : float
        Seconds between token frames.
    starts : sequence of int
        First frame of each window.
    length : int
        Frames of a window. The end of a longer window than the run is padding.

    Returns
    -------
    dict of str to torch.Tensor
        ``tokens`` (windows, frames, tokens, features) as stored; ``valid`` (windows, frames),
        False in padding; ``times`` (windows, frames), seconds since the window's first frame; the
        run's ``mean``, ``std`` and, with int8, ``scale`` (tokens, features).
    """
    n_frames, *shape = stored.tokens.shape
    tokens = np.zeros((len(starts), length, *shape), stored.tokens.dtype)
    valid = np.zeros(tokens.shape[:2], bool)
    for window, first in enumerate(starts):
        there = stored.tokens[first : first + length]
        tokens[window, : len(there)] = there
        valid[window, : len(there)] = True
    times = np.tile(tr * np.arange(length, dtype=np.float32), (len(starts), 1))
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": tokens, "valid": valid, "times": times, "mean": stored.mean, "std": stored.std,
    }  # fmt: skip
    if stored.scale is not None:
        arrays["scale"] = stored.scale
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


class EncodedRuns(NamedTuple):
    """Output of an encoder for windows of runs."""

    cls: Tensor
    """[B K W]"""
    registers: Tensor
    """[B K R W]"""
    tokens: Tensor
    """[B K U C W]"""
    valid: Tensor | None
    """False in patches of padding alone [B K U], bool; None without padding"""
    times: Tensor
    """seconds from a window's first frame to each patch [B K U]"""

    def in_a_row(self) -> Tensor:
        """Return the tokens of all windows of a run, one after the other [B N W].

        Tokens of padding are replaced by the mean of the run's others, which leaves the mean over
        tokens as it is.
        """
        tokens_BNW = self.tokens.flatten(1, 3)
        if self.valid is None:
            return tokens_BNW
        valid_BN1 = self.valid[..., None].expand(self.tokens.shape[:-1]).flatten(1)[..., None]
        total_BW = (tokens_BNW * valid_BN1).sum(1, keepdim=True)
        return torch.where(valid_BN1, tokens_BNW, total_BW / valid_BN1.sum(1, keepdim=True))


class WindowEncoder(nn.Module):
    """An encoder as a module that takes stacked :func:`run_windows`.

    Parameters
    ----------
    encoder : TokenTransformer
    """

    def __init__(self, encoder: TokenTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, windows: Mapping[str, Tensor]) -> EncodedRuns:
        """Encode windows of B runs.

        Parameters
        ----------
        windows : mapping of str to torch.Tensor
            As from :func:`run_windows`, each with a first axis of B runs, on any device.
        """
        n_runs, n_windows = windows["tokens"].shape[:2]
        inputs = self.encoder.inputs(_batch(windows).to(self.encoder.prefix.device))
        encoded = self.encoder(
            self.encoder.embed(inputs.patches), inputs.static, inputs.times, inputs.host_valid
        )
        of_windows = (
            None if value is None else value.unflatten(0, (n_runs, n_windows))
            for value in (encoded.cls, encoded.registers, encoded.tokens, inputs.valid,
                          inputs.times)
        )  # fmt: skip
        return EncodedRuns(*of_windows)  # type: ignore[arg-type]


def _batch(windows: Mapping[str, Tensor]) -> Batch:
    """Make one batch of the windows of all runs."""
    n_runs, n_windows = windows["tokens"].shape[:2]
    n = n_runs * n_windows

    def of_windows(name: str) -> Tensor:
        return windows[name].repeat_interleave(n_windows, dim=0)

    valid_BT = windows["valid"].flatten(0, 1)
    return Batch(
        tokens=windows["tokens"].flatten(0, 1),
        mean=of_windows("mean"),
        std=of_windows("std"),
        scale=of_windows("scale") if "scale" in windows else None,
        times=windows["times"].flatten(0, 1),
        valid=None if valid_BT.all() else valid_BT,
        runs=torch.arange(n_runs).repeat_interleave(n_windows),
        draws=torch.zeros(n, dtype=torch.int64),
        epoch=0,
        seen=n,
        n_frames=int(valid_BT.sum()),
    )
