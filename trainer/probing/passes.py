"""Compute features of several encoders and sets of windows in one pass over the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.evaluation.features import Encoded, FrozenEncoder, encode, spread_windows
from fmritok.trainer.probing.cache import FeatureCache

__all__ = ["Form", "Need", "features_of", "needed_windows"]

#: ``mean`` and ``cells`` are pooled, ``tokens`` are all tokens of each window.
Form = Literal["mean", "cells", "tokens"]

_FORMAT = "fmritok features 1"
#: Columns of the runs table that identify the tokens of a run.
_MARKS = ("run_id", "checksum", "tr", "n_frames")

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Need:
    """Features of some windows, averaged over the windows of each row.

    Attributes
    ----------
    form : {"mean", "cells", "tokens"}
    windows : Windows
        Their runs are positions in an index of runs that all needs share.
    row : np.ndarray of shape (n_windows,), int64
    n_rows : int
    """

    form: Form
    windows: Windows
    row: Integers
    n_rows: int

    def shape(self, encoder: FrozenEncoder) -> tuple[int, ...]:
        """Return the shape of the features of an encoder."""
        width, cells = encoder.config.model.width, encoder.encoder.grid.n_cells
        if self.form == "tokens":
            patches = -(-int(self.windows.n_frames.max()) // encoder.encoder.grid.layout.patch)
            return self.n_rows, patches, cells, width
        return self.n_rows, width * (2 if self.form == "mean" else cells + 1)


def needed_windows(index: RunIndex, runs: Integers, *, window: int, crops: int) -> Windows:
    """Return evenly spread windows of runs at some positions of an index."""
    spread = [
        (run, *place)
        for run in runs.tolist()
        for place in spread_windows(int(index.n_frames[run]), window=window, crops=crops)
    ]
    run, first, length = np.array(spread, dtype=np.int64).reshape(-1, 3).T
    return Windows.of(run, first, length, np.zeros_like(run))


def features_of(
    encoders: Sequence[FrozenEncoder],
    group: TokenGroup,
    index: RunIndex,
    needs: Sequence[Need],
    cache: FeatureCache,
    *,
    device: torch.device,
    workers: int = 0,
) -> list[list[npt.NDArray[Any]]]:
    """Return features of each encoder for each need; what the cache lacks takes one pass.

    Parameters
    ----------
    encoders : sequence of FrozenEncoder
        Of one training, and untrained ones of its shape.
    group : TokenGroup
    index : RunIndex
    needs : sequence of Need
    cache : FeatureCache
    device : torch.device
    workers : int

    Returns
    -------
    list of list of np.ndarray
        Of shape :meth:`Need.shape`; ``tokens`` float16, 0 in padding, others float32.

    Raises
    ------
    TrainingError
        If a feature is not finite, or the disk does not take them.
    """
    of_windows = [_windows_digest(group, index, need) for need in needs]
    keys = [
        [{**who, "form": need.form, "windows": digest}
         for need, digest in zip(needs, of_windows, strict=True)]
        for who in (_encoder_key(encoder, group) for encoder in encoders)
    ]  # fmt: skip
    found = [[cache.find(key) for key in of_encoder] for of_encoder in keys]
    lacking = [(e, n) for e, own in enumerate(found) for n, one in enumerate(own) if one is None]
    if lacking:
        entries = [
            (keys[e][n], needs[n].shape(encoders[e]),
             "float16" if needs[n].form == "tokens" else "float32")
            for e, n in lacking
        ]  # fmt: skip
        with cache.filling(entries) as arrays:
            at_work = sorted({e for e, _ in lacking})
            chosen = [encoders[e] for e in at_work]
            asked = sorted({n for _, n in lacking})
            sinks = [
                _Sink(needs[n], array, at_work.index(e), asked.index(n))
                for (e, n), array in zip(lacking, arrays, strict=True)
            ]
            _fill(chosen, group, index, [needs[n] for n in asked], sinks, device, workers)
        for e, n in lacking:
            found[e][n] = cache.find(keys[e][n])
    return [[_there(one) for one in own] for own in found]


@dataclass(frozen=True)
class _Sink:
    """An array that is filled batch by batch."""

    need: Need
    array: npt.NDArray[Any]
    encoder: int
    number: int
    """of the need"""

    def add(self, encoded: Encoded, in_batch: Integers, chosen: Integers) -> None:
        """Add windows of a batch: their places in it, and in the need."""
        rows = self.need.row[chosen]
        if self.need.form == "tokens":
            tokens = encoded.tokens[in_batch].half()
            if encoded.valid is not None:
                tokens = tokens * encoded.valid[in_batch][:, :, None, None]
            if not tokens.isfinite().all():
                raise TrainingError(
                    expected("Features", "for the attentive head", "at most 65,504, the most of "
                             "float16", float(encoded.tokens.abs().max()), "Choose another head.")
                )  # fmt: skip
            self.array[rows, : tokens.shape[1]] = tokens.numpy()
            return
        features = encoded.pooled(self.need.form)[in_batch].numpy()
        counts = np.bincount(self.need.row, minlength=self.need.n_rows)[rows]
        np.add.at(self.array, rows, features / counts[:, None].astype(np.float32))


def _fill(
    encoders: Sequence[FrozenEncoder],
    group: TokenGroup,
    index: RunIndex,
    needs: Sequence[Need],
    sinks: Sequence[_Sink],
    device: torch.device,
    workers: int,
) -> None:
    places = [np.stack([n.windows.run, n.windows.first, n.windows.n_frames]) for n in needs]
    union, number = np.unique(np.concatenate(places, axis=1), axis=1, return_inverse=True)
    run, first, length = union
    windows = Windows.of(run, first, length, np.zeros_like(run))
    edges = np.cumsum([len(need.windows) for need in needs])[:-1]
    of_needs = np.split(number.reshape(-1), edges)  # each window's number in the union
    orders = [np.argsort(numbers, kind="stable") for numbers in of_needs]
    done = 0
    for batch, encoded in encode(encoders, group, index, windows, device=device, workers=workers):
        end = done + len(batch.runs)
        for sink in sinks:
            numbers, order = of_needs[sink.number], orders[sink.number]
            low, high = np.searchsorted(numbers[order], [done, end])
            chosen = order[low:high]
            if len(chosen):
                sink.add(encoded[sink.encoder], numbers[chosen] - done, chosen)
        done = end


def _encoder_key(encoder: FrozenEncoder, group: TokenGroup) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, values in sorted(encoder.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.cpu().float().numpy().tobytes())
    return {
        "format": _FORMAT,
        "fmritok": version("fmritok"),
        "weights": digest.hexdigest(),
        "model": asdict(encoder.config.model),
        "patch": encoder.encoder.grid.layout.patch,
        "contract": group.contract,
    }


def _windows_digest(group: TokenGroup, index: RunIndex, need: Need) -> str:
    used, renumbered = np.unique(need.windows.run, return_inverse=True)
    marks = (
        group.runs[list(_MARKS)].astype(str).set_index("run_id").loc[index.run_id[used].tolist()]
    )
    digest = hashlib.sha256(json.dumps(marks.reset_index().to_numpy().tolist()).encode())
    for column in (renumbered, need.windows.first, need.windows.n_frames, need.row):
        digest.update(column.astype(np.int64).tobytes())
    return digest.hexdigest()


def _there(features: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if features is None:
        raise TrainingError(
            expected("Features", "of the cache", "what was written to it", "another content",
                     "Check that disk, or choose another folder with --cache.")
        )  # fmt: skip
    return features
