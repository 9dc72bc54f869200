"""Sparse matrix products with blocks of frames, optimized for the CPU cache."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

__all__ = ["SparseMap"]

Floats = npt.NDArray[np.float32]

#: Frames per product: four cache lines of float32. Fewer frames leave vector units idle. Many more
#: do not stay in the cache between two rows with a common sample.
_LANES = 64


class SparseMap:
    """A linear map from samples to places (parcels, vertices or pixels), float32.

    Frames are the fastest axis of the product: every weight multiplies a contiguous vector. This is
    several times faster than a general sparse product.

    Parameters
    ----------
    matrix : scipy.sparse array of shape (n_places, n_samples)
    """

    def __init__(self, matrix: Any) -> None:
        csr = scipy.sparse.csr_array(matrix)
        csr.sum_duplicates()
        self.matrix = csr
        self.shape: tuple[int, int] = csr.shape
        used, column = np.unique(csr.indices, return_inverse=True)
        self._used = used.astype(np.int64)
        whole = len(used) == csr.shape[1]
        self._columns = slice(None) if whole else self._used
        self._index = column.astype(np.int32)
        self._offsets = csr.indptr.astype(np.int32)
        self._weights = csr.data.astype(np.float32)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the matrix."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for array in (self.matrix.indptr.astype(np.int64), self.matrix.indices.astype(np.int64),
                      self._weights):  # fmt: skip
            digest.update(array.tobytes())
        return digest.hexdigest()

    @cached_property
    def counts(self) -> Floats:
        """Number of samples of each place."""
        return np.diff(self._offsets).astype(np.float32)

    @cached_property
    def sums(self) -> Floats:
        """Sum of the weights of each place."""
        return np.asarray(self.matrix.sum(axis=1), np.float32).ravel()

    def apply(self, samples: Floats) -> Floats:
        """Map time courses.

        Parameters
        ----------
        samples : np.ndarray of shape (n_samples, n_frames), float32

        Returns
        -------
        np.ndarray of shape (n_places, n_frames), float32
        """
        return self._multiply(samples[self._columns])

    def apply_to_frames(self, block: npt.NDArray[Any]) -> Floats:
        """Map frames in the memory layout of files.

        Parameters
        ----------
        block : np.ndarray of shape (n_frames, n_samples), any real dtype

        Returns
        -------
        np.ndarray of shape (n_places, n_frames), float32
        """
        return self._multiply(block[:, self._columns].T.astype(np.float32, order="C"))

    def signal(self, block: npt.NDArray[Any], zero: float = 0) -> Floats:
        """Count the samples of each place that differ from ``zero`` in any frame of a block.

        Returns
        -------
        np.ndarray of shape (n_places,), float32
        """
        seen = (block[:, self._columns] != zero).any(axis=0)
        total = np.concatenate([[0], np.cumsum(seen[self._index])])
        return (total[self._offsets[1:]] - total[self._offsets[:-1]]).astype(np.float32)

    def _multiply(self, used: Floats) -> Floats:
        import torch
        from torch.nn.functional import embedding_bag

        index, offsets = torch.from_numpy(self._index), torch.from_numpy(self._offsets)
        weights = torch.from_numpy(self._weights)
        n_frames = used.shape[1]
        out = np.empty((self.shape[0], n_frames), np.float32)
        for first in range(0, n_frames, _LANES):
            lanes = np.ascontiguousarray(used[:, first : first + _LANES])
            with torch.inference_mode():
                product = embedding_bag(
                    index, torch.from_numpy(lanes), offsets, mode="sum",
                    per_sample_weights=weights, include_last_offset=True,
                )  # fmt: skip
            if product.shape[1] == n_frames:
                return product.numpy()
            out[:, first : first + _LANES] = product.numpy()
        return out
