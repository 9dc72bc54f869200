"""Read windows as dicts of tensors, for models outside of fmritok."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.reading import Batch, WindowReader
from fmritok.trainer.data.windows import Request, RunIndex
from fmritok.trainer.model.inputs import deviations, values

__all__ = ["Form", "SampleReader"]

Form = Literal["residual", "absolute", "stored"]


class SampleReader(Dataset[Any]):
    """Reads windows from a store; small enough to send to loader workers.

    Parameters
    ----------
    group : TokenGroup
    index : RunIndex
    window : int
        Frames of every window in the result; shorter ones are padded.
    form : {"residual", "absolute", "stored"}
        See :class:`fmritok.trainer.data.dataset.WindowDataset`.
    targets : dict of str to np.ndarray of shape (n_runs,)
        Labels of each run.
    """

    def __init__(
        self,
        group: TokenGroup,
        index: RunIndex,
        *,
        window: int,
        form: Form,
        targets: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self.window, self.form, self.targets = window, form, dict(targets)
        self._reader = WindowReader(group, index)

    def __getitems__(self, requests: list[Request]) -> dict[str, Tensor]:
        """Read windows into one batch of tensors, window axis first."""
        batch = self._reader.__getitems__(requests)
        n_windows, n_frames = batch.times.shape
        valid = batch.valid
        if valid is None:
            valid = torch.ones(n_windows, n_frames, dtype=torch.bool)
        missing = self.window - n_frames
        tokens = self._tokens(batch, valid)
        samples = {
            "tokens": F.pad(tokens, (0, 0, 0, 0, 0, missing)) if missing else tokens,
            "times": F.pad(batch.times.masked_fill(~valid, 0.0), (0, missing)),
            "valid": F.pad(valid, (0, missing)),
            "run": batch.runs,
        }
        if self.form == "stored":
            samples |= {"mean": batch.mean, "std": batch.std}
            if batch.scale is not None:
                samples["scale"] = batch.scale
        rows = batch.runs.numpy()
        labels = {name: torch.from_numpy(values[rows]) for name, values in self.targets.items()}
        return samples | labels

    def _tokens(self, batch: Batch, valid: Tensor) -> Tensor:
        if self.form == "stored":
            return batch.tokens
        tokens = deviations(batch) if self.form == "residual" else values(batch)
        return tokens.masked_fill(~valid[:, :, None, None], 0.0)
