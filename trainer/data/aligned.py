"""Several token groups of the same runs, read together: the same seconds of each.

A frame stands for the instant ``frame * TR`` of its run. A window is chosen in the frames of the
first group; of the others it has the frames whose instants lie between the window's beginning and
its end, so that windows that follow each other share no frame and leave none out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.loader import batch_loader
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.data.streaming import Batch, WindowDataset
from fmritok.trainer.data.windows import Request, RunIndex
from fmritok.trainer.errors import TrainingError

__all__ = ["AlignedDataset", "aligned_indices", "aligned_loader", "covered_frames"]

_SLACK = 1e-6  # frames: 0.72 s x 25 is 18 s, whatever the last bit of the product


def aligned_indices(
    groups: Mapping[str, TokenGroup | MixedGroup], run_ids: Sequence[str]
) -> dict[str, RunIndex]:
    """Index the same runs in every group, as far as all of them go.

    Parameters
    ----------
    groups : mapping of str to TokenGroup
        Windows are chosen in the frames of the first.
    run_ids : sequence of str

    Returns
    -------
    dict of str to RunIndex
        Runs of the first group end where the shortest of the others ends.

    Raises
    ------
    TrainingError
        If a group lacks a run, or has no frame within the seconds of the first group's run.
    """
    indices = {name: RunIndex.of(group.runs, run_ids) for name, group in groups.items()}
    first, *others = indices
    own = indices[first]
    n_frames = own.n_frames
    for name in others:
        other = indices[name]
        seconds = other.n_frames * other.tr
        n_frames = np.minimum(n_frames, np.floor(seconds / own.tr + _SLACK).astype(np.int64))
    for position in np.flatnonzero(n_frames < 1):
        raise TrainingError(
            expected("Run", own.run_id[position], "at least one common frame in all groups",
                     "none", "Tokenize it again, or leave it out.")
        )  # fmt: skip
    return {**indices, first: replace(own, n_frames=n_frames)}


def covered_frames(
    first: npt.NDArray[np.int64], tr: npt.NDArray[np.float64], other_tr: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return the other group's first frame at or after the instant of each given frame.

    Parameters
    ----------
    first : np.ndarray, int
        Frames of the first group.
    tr, other_tr : np.ndarray, float
        Seconds between the frames of both.
    """
    return np.ceil(first * tr / other_tr - _SLACK).astype(np.int64)


class AlignedDataset(Dataset[dict[str, Batch]]):
    """Reads the same seconds of several token groups.

    Parameters
    ----------
    groups : mapping of str to TokenGroup
    indices : mapping of str to RunIndex
        From :func:`aligned_indices`.
    """

    def __init__(
        self, groups: Mapping[str, TokenGroup | MixedGroup], indices: Mapping[str, RunIndex]
    ) -> None:
        self.datasets = {name: WindowDataset(groups[name], indices[name]) for name in groups}

    def __getitems__(self, requests: list[Request]) -> dict[str, Batch]:
        """Read a batch of every group, times counted from the beginning of the first's window."""
        (name, own), *others = self.datasets.items()
        batches = {name: own.__getitems__(requests)}
        runs = np.array([request.run for request in requests])
        low = np.array([request.first for request in requests])
        high = low + np.array([request.n_frames for request in requests])
        tr = own.index.tr[runs]
        for name, other in others:
            other_tr = other.index.tr[runs]
            first, end = (covered_frames(edge, tr, other_tr) for edge in (low, high))
            end = np.minimum(end, other.index.n_frames[runs])
            # A window shorter than the other's TR may hold none of its instants: the one before.
            first = np.maximum(np.minimum(first, end - 1), 0)
            length = np.maximum(end - first, 1)
            batch = other.__getitems__(
                [
                    request._replace(first=int(begin), n_frames=int(count))
                    for request, begin, count in zip(requests, first, length, strict=True)
                ]
            )
            offset = (first * other_tr - low * tr).astype(np.float32)
            batches[name] = batch._replace(
                times=batch.times + batch.times.new_tensor(offset)[:, None]
            )
        return batches


def aligned_loader(
    groups: Mapping[str, TokenGroup | MixedGroup],
    indices: Mapping[str, RunIndex],
    batches: Iterable[list[Request]],
    *,
    workers: int,
    pin_memory: bool = False,
) -> Iterable[dict[str, Batch]]:
    """Make a loader of the requested windows of every group, in their order.

    Raises
    ------
    ConfigError
        If workers are wanted for a store that lives in this process's memory.
    """
    dataset = AlignedDataset(groups, indices)
    locations = [group.location for group in groups.values()]
    return batch_loader(dataset, locations, batches, workers=workers, pin_memory=pin_memory)
