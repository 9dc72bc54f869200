"""Folds keep families together, and each can be scored; too few subjects are one clear error."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fmritok.trainer.data.labels import Labels
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.folds import class_folds, fold_splits


def _labels(values, family=None):
    values = np.array(values)
    kind = "classes" if values.dtype.kind == "U" else "number"
    family = [f"s{i}" for i in range(len(values))] if family is None else family
    return Labels("x", kind, "subject", np.arange(len(values)), values, np.array(family))


SEX, AGE = ["F", "M"] * 30, np.arange(60) + 20.0
FAMILY = [f"F{i}" for i in np.repeat(np.arange(24), [1] * 10 + [2] * 7 + [3] * 2 + [6] * 5)]


@pytest.mark.parametrize("values", [SEX, ["a", "b", "c"] * 20, ["a", "a", "a", "b"] * 15, AGE])
@pytest.mark.parametrize("family", [None, FAMILY])
def test_folds_hold_every_unit_out_once_and_families_together(values, family):
    labels = _labels(values, family)
    for seed in range(5):
        folds = fold_splits(labels, folds=5, seed=seed)
        assert np.sum(folds, axis=0).tolist() == [1] * 60
        for test in folds:
            assert not set(labels.family[test]) & set(labels.family[~test])
            if labels.kind == "classes":
                assert set(labels.values[test]) == set(labels.values)
            else:
                assert 9 <= test.sum() <= 15
        again = fold_splits(labels, folds=5, seed=seed)
        assert all((a == b).all() for a, b in zip(folds, again, strict=True))
        other = fold_splits(labels, folds=5, seed=seed + 1)
        assert any((a != b).any() for a, b in zip(folds, other, strict=True))


@pytest.mark.parametrize(
    ("values", "family", "folds", "words"),
    [
        (["F", "M"] * 3, None, 5, "5 or more families of every class.*got F: 3, M: 3.*--folds 3"),
        (["F", "M"] * 4, None, 5, "got F: 4, M: 4. Tokenize more subjects, or choose --folds 4"),
        ([f"{i:02}" for i in range(12)], None, 2, "00: 1, .*09: 1 and 2 more classes. Tok"),
        (["F", "M", "M"], None, 2, "got F: 1, M: 2. Tokenize more subjects.$"),
        (["F", "M"] * 9, [f"{i // 6}" for i in range(18)], 5, "got F: 3, M: 3.*--folds 3"),
        (np.arange(8.0), None, 5, "15 or more subjects of 5 or more families.*got 8 subjects of 8"),
        (np.arange(5.0), None, 2, "6 or more subjects of 2 .*got 5 subjects of 5 families"),
        (np.arange(9.0), ["a"] * 9, 3, "got 9 subjects of 1 family. Tokenize more subjects.$"),
        # Enough of all, but all of one family but two.
        (
            np.arange(20.0),
            ["a"] * 18 + ["b", "c"],
            3,
            "families kept together. Tokenize more subj.*s.$",
        ),
        # Two families have each class, and no two halves of the three families have all.
        (list("abbcca"), list("xxyyzz"), 2, "families kept together. Tokenize more subjects.$"),
    ],
)
def test_too_few_subjects_are_one_error_that_counts_them(values, family, folds, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=words):
            fold_splits(_labels(values, family), folds=folds, seed=0)


def test_three_families_are_divided_where_a_division_exists():
    """Sisters and brothers: one family has both classes, and has to be alone in its fold."""
    values = np.array(["F", "F", "M", "M"])
    family = np.array(["a", "b", "b", "c"])
    for seed in range(5):
        found = class_folds(values, family, folds=2, seed=seed)
        assert found is not None
        assert {values[found == fold].tolist().count("F") for fold in (0, 1)} == {1}
