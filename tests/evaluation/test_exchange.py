"""Permutations of labels keep families, subjects and runs together."""

from __future__ import annotations

import numpy as np

from fmritok.trainer.evaluation.statistics.exchange import exchanges


def _names(sizes):
    return np.repeat([f"g{i}" for i in range(len(sizes))], sizes)


def test_units_without_relatives_change_places_freely():
    found = exchanges((_names([1] * 6),), count=3000, seed=0)
    assert all(sorted(row) == list(range(6)) for row in found.tolist())
    counts = np.array([np.bincount(found[:, unit], minlength=6) for unit in range(6)])
    assert np.abs(counts - 500).max() < 5 * 500**0.5
    assert (found == exchanges((_names([1] * 6),), count=3000, seed=0)).all()
    assert (found != exchanges((_names([1] * 6),), count=3000, seed=1)).any()


def test_families_change_places_whole_with_others_of_their_size():
    sizes = [1, 2, 2, 1, 3, 2, 1]
    family = _names(sizes)
    of_label = np.arange(len(family))
    seen = set()
    for row in exchanges((family,), count=500, seed=0):
        given = family[of_label[row]]  # the family that each unit's label comes from
        for name in np.unique(family):
            source = np.unique(given[family == name])
            assert len(source) == 1
            assert (family == source[0]).sum() == (family == name).sum()
            seen.add((str(name), str(source[0])))
    assert len(seen) == 3 * 3 + 3 * 3 + 1
    only = np.flatnonzero(family == "g4")
    within = {tuple(row[only]) for row in exchanges((family,), count=200, seed=0)}
    assert len(within) == 6  # members of the largest family among themselves


def test_subjects_stay_whole_within_families():
    """Families of the same number of subjects differ if their subjects' numbers of runs do."""
    subject = _names([2, 1, 2, 1, 2, 2])
    family = np.array(["a"] * 3 + ["b"] * 3 + ["c"] * 4)
    seen = set()
    for row in exchanges((family, subject), count=300, seed=0):
        for name in np.unique(subject):
            source = np.unique(subject[row[subject == name]])
            assert len(source) == 1
            seen.add((str(name), str(source[0])))
    assert seen == {
        ("g0", "g0"), ("g0", "g2"), ("g2", "g0"), ("g2", "g2"), ("g1", "g1"), ("g1", "g3"),
        ("g3", "g1"), ("g3", "g3"), ("g4", "g4"), ("g4", "g5"), ("g5", "g4"), ("g5", "g5"),
    }  # fmt: skip
