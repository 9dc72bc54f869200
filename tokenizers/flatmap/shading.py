"""Shading of a flat map: where its sulci are, from the curvature of the folded surface."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fmritok.tokenizers.flatmap.cortex import CortexTemplate, Hemisphere
from fmritok.tokenizers.flatmap.pixels import FlatGrid

__all__ = ["sulcal_shading"]

_SMOOTHING = 3
#: Around the change from gyrus to sulcus, in standard deviations of the curvature.
_SOFT = 0.5


def sulcal_shading(template: CortexTemplate, flat: FlatGrid) -> npt.NDArray[np.float32]:
    """Return how much each pixel lies in a sulcus.

    Parameters
    ----------
    template : CortexTemplate
    flat : FlatGrid
        Pixels of this template.

    Returns
    -------
    np.ndarray of shape (rows, columns), float32
        0 on a gyrus, 1 in a sulcus; NaN outside of cortex.
    """
    curvature = np.concatenate([_curvature(h) for h in template.hemispheres])
    of_pixel = np.einsum("pk,pk->p", flat.weight, curvature[flat.vertex])
    of_pixel = (of_pixel - np.median(of_pixel)) / max(float(of_pixel.std()), 1e-12)
    image = np.full(flat.shape, np.nan, np.float32)
    image.flat[flat.pixel] = 1 / (1 + np.exp(-of_pixel / _SOFT))
    return image


def _curvature(hemisphere: Hemisphere) -> npt.NDArray[np.float64]:
    """Return the curvature of each vertex: above 0 where neighbours lie further outwards."""
    points, faces = hemisphere.middle, hemisphere.faces
    n = len(points)
    normal = np.zeros((n, 3))
    a, b, c = (points[faces[:, i]] for i in range(3))
    for i in range(3):
        np.add.at(normal, faces[:, i], np.cross(b - a, c - a))
    outwards = np.sign(np.sum(normal * (hemisphere.outer - hemisphere.inner)) or 1.0)
    normal *= outwards / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    mean = _neighbours(faces, n)
    bend = np.einsum("vd,vd->v", mean @ points - points, normal)
    for _ in range(_SMOOTHING):
        bend = (bend + mean @ bend) / 2
    return np.asarray(bend)


def _neighbours(faces: npt.NDArray[np.int64], n: int) -> Any:
    """Return the sparse map from vertices to means of their neighbours; alone, to themselves."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    alone = np.setdiff1d(np.arange(n), pairs[:, 0])
    pairs = np.concatenate([pairs, np.stack([alone, alone], axis=1)])
    count = np.bincount(pairs[:, 0], minlength=n)
    entries = (1 / count[pairs[:, 0]], (pairs[:, 0], pairs[:, 1]))
    return scipy.sparse.csr_array(entries, (n, n))
