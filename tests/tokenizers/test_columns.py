"""Parcels of an atlas are found by name, by number, or by position; doubts are errors."""

from __future__ import annotations

import numpy as np
import pytest

from fmritok.errors import RunError
from fmritok.tokenizers.network.columns import find_parcels, is_count
from fmritok.tokenizers.spaces import ParcelSpace

ATLAS = ["a1", "a2", "b1", "b2"]
#: Rows of these parcels in the table, which is not sorted by network.
ROW = np.array([1, 3, 0, 2])


def find(names, atlas=ATLAS, n=None):
    space = ParcelSpace(len(names) if n is None else n, tuple(names))
    return find_parcels(space, atlas, ROW, "atlas.tsv").tolist()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b1", "a1", "b2", "a2"], [1, 3, 0, 2]),
        (["Mean_b1", "Mean_a1", "Mean_b2", "Mean_a2"], [1, 3, 0, 2]),
        (["#A1", "#A2", "#B1", "#B2"], [0, 1, 2, 3]),
        (["a2", "b1", "b2"], [-1, 0, 1, 2]),  # 3dROIstats leaves out what the run lacks
    ],
)
def test_names_are_found_in_any_order(names, expected):
    assert find(names) == expected


@pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["#1", "#2", "#3", "#4"]])
def test_numbers_in_order_and_no_names_are_the_rows_of_the_table(names):
    assert find(names) == ROW.tolist()
    assert find([], n=4) == ROW.tolist()
    assert is_count(names)
    assert not is_count(["0", "2", "1"])


def test_numbers_are_names_if_the_atlas_has_them():
    assert find(["1", "2", "3", "4"], ["4", "3", "2", "1"]) == [3, 2, 1, 0]
    assert find(["1", "2", "4"], ["1", "2", "3", "4"]) == [0, 1, -1, 2]
    assert find(["0", "1", "2", "3"], ["1", "2", "3", "4"]) == ROW.tolist()  # counted from 0


@pytest.mark.parametrize(
    ("names", "n", "words"),
    [
        (["a1", "a2", "b1", "c1"], None, "names of its parcels, such as 'a1', got 'c1'"),
        (["a1", "a2", "b1", "b2", "time"], None, "got 'time'"),
        (["a1", "a1", "b1", "b2"], None, "each parcel once, got 'a1' twice"),
        (["a1"], None, "most of its 4 parcels, got 1 of them"),
        (["0", "1", "2"], None, "4 parcels, got time courses of 3"),
        ([], 5, "4 parcels, got time courses of 5"),
    ],
)
def test_other_names_or_numbers_are_refused(names, n, words):
    with pytest.raises(RunError, match=words):
        find(names, n=n)
