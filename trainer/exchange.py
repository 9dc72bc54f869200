"""Permuted labels: what a probe scores where labels have nothing to do with features.

Labels of relatives are alike, and so are their features. A permutation that broke families up
would make both independent, and the scores by chance would scatter too little. So whole families
change places with families of the same shape, and within a family its subjects, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["exchanges"]

Units = npt.NDArray[np.int64]


class _Block(NamedTuple):
    """Units that belong together: in smaller blocks, or as they are."""

    shape: Any
    """how many smaller blocks it has, and of what shape: blocks of one shape can be exchanged"""
    blocks: Sequence[_Block]
    units: Units
    """all of them, those of equal shapes beside one another"""


def exchanges(
    groups: Sequence[npt.NDArray[np.str_]], *, count: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return random permutations of units that keep nested groups together.

    Parameters
    ----------
    groups : sequence of np.ndarray of shape (n_units,), str
        The groups that each unit is in, outermost first: family, subject, run.
    count, seed : int

    Returns
    -------
    np.ndarray of shape (count, n_units), int64
        The unit whose label each unit gets.
    """
    whole = _block(np.arange(len(groups[0])), groups)
    generator = np.random.default_rng([seed, 1])
    found = np.zeros((count, len(groups[0])), np.int64)
    for permutation in found:
        permutation[whole.units] = np.concatenate(_exchanged(whole, generator))
    return found


def _block(units: Units, groups: Sequence[npt.NDArray[np.str_]]) -> _Block:
    if not groups:
        return _Block(len(units), (), units)
    order = units[np.argsort(groups[0][units], kind="stable")]
    changes = np.flatnonzero(groups[0][order][1:] != groups[0][order][:-1]) + 1
    blocks = sorted(
        (_block(part, groups[1:]) for part in np.split(order, changes)), key=lambda b: b.shape
    )
    shape = tuple(block.shape for block in blocks)
    return _Block(shape, blocks, np.concatenate([block.units for block in blocks]))


def _exchanged(block: _Block, generator: np.random.Generator) -> list[Units]:
    """Return the block's units in another order, each in a place like its own."""
    if not block.blocks:
        return [generator.permutation(block.units) if len(block.units) > 1 else block.units]
    parts: list[Units] = []
    for _, same in groupby(block.blocks, key=lambda b: b.shape):
        alike = list(same)
        for place in generator.permutation(len(alike)):
            parts += _exchanged(alike[place], generator)
    return parts
