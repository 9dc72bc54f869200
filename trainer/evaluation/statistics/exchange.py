"""Permute labels for chance scores, keeping families, subjects and runs together.

Relatives have similar labels and similar features. A permutation across families would remove this
dependence, and chance scores would vary too little. Whole families are exchanged with families of
the same shape, then subjects within a family, then runs within a subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["exchanges"]

Integers = npt.NDArray[np.int64]


class _Level(NamedTuple):
    """Blocks of units at one level, such as families; arrays of shape (n_units,)."""

    block: Integers
    """number of each unit's block"""
    shape: Integers
    """equal for exchangeable blocks: equally many smaller blocks of the same shapes"""


def exchanges(groups: Sequence[npt.NDArray[np.str_]], *, count: int, seed: int) -> Integers:
    """Return random permutations of units that keep nested groups together.

    Parameters
    ----------
    groups : sequence of np.ndarray of shape (n_units,), str
        The groups of each unit, outermost first: family, subject, run.
    count, seed : int

    Returns
    -------
    np.ndarray of shape (count, n_units), int64
        Index of the unit that gives its label to each unit.
    """
    levels = _levels(groups)
    generator = np.random.default_rng([seed, 1])
    found = np.zeros((count, len(groups[0])), np.int64)
    # Both orders sort by shape first: equal positions hold blocks of the same shape.
    places = _order(levels, [level.block for level in levels])
    for permutation in found:
        drawn = [generator.permutation(level.block.max() + 1)[level.block] for level in levels]
        permutation[places] = _order(levels, drawn)
    return found


def _order(levels: Sequence[_Level], keys: Sequence[Integers]) -> Integers:
    """Sort units by the shape of their blocks, then by a key of the block."""
    both = [
        column for level, key in zip(levels, keys, strict=True) for column in (level.shape, key)
    ]
    return np.lexsort(both[::-1])


def _levels(groups: Sequence[npt.NDArray[np.str_]]) -> list[_Level]:
    """Return the blocks of every level, outermost first; the last level is the units."""
    blocks = [np.zeros(len(groups[0]), np.int64)]
    for names in (*groups, np.arange(len(groups[0])).astype(str)):
        name = np.unique(names, return_inverse=True)[1]
        pairs = np.stack([blocks[-1], name])
        blocks.append(np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1))
    shape = np.zeros(len(blocks[-1]), np.int64)
    levels = [_Level(blocks[-1], shape)]
    for block, smaller in zip(blocks[-2:0:-1], blocks[:1:-1], strict=True):
        first = np.unique(smaller, return_index=True)[1]  # one unit for each smaller block
        order = first[np.lexsort((shape[first], block[first]))]
        edges = np.flatnonzero(np.diff(block[order])) + 1
        shapes = [tuple(part.tolist()) for part in np.split(shape[order], edges)]
        codes = {each: code for code, each in enumerate(sorted(set(shapes)))}
        shape = np.array([codes[each] for each in shapes])[block]
        levels.insert(0, _Level(block, shape))
    return levels
