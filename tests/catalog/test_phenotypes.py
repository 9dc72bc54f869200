"""Phenotypes are typed by what is in them; values that cannot be told are missing and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fmritok.pipeline.catalog.phenotypes import Column, sex_labels, tidy
from fmritok.pipeline.tables.remarks import Remark

TABLE = Path("t.csv")


def test_types_follow_the_values():
    table = pd.DataFrame(
        {
            "subject": ["01", "02", "03"],
            "count": ["1", "2", "3"],
            "gap": ["1", "", "3"],
            "score": ["1.5", "-2e1", "3"],
            "code": ["007", "8", "9"],
            "word": ["1", "x", ""],
            "empty": ["", "", ""],
            "age": ["", "30", "31.5"],
        }
    )
    found = tidy(
        "x", table, {"age": Column("age", "years", kind="number")}, source="t.csv", path=TABLE
    )
    dtypes = {k: str(v) for k, v in found.table.dtypes.items()}
    assert (dtypes["count"], dtypes["gap"], dtypes["score"]) == ("int64", "float64", "float64")
    assert list(found.table)[:4] == ["dataset", "subject", "session", "age"]
    assert found.table["code"].tolist() == ["007", "8", "9"]
    assert found.table["word"].tolist() == ["1", "x", ""]
    assert found.table["empty"].tolist() == ["", "", ""]
    np.testing.assert_array_equal(found.table["score"], [1.5, -20, 3])
    described = found.columns.set_index("column")
    assert described["dtype"].to_dict() == {
        "age": "float64", "count": "int64", "gap": "float64", "score": "float64", "code": "str",
        "word": "str", "empty": "str",
    }  # fmt: skip
    assert described.loc["age"].tolist() == ["x", "float64", "years", "t.csv", "age"]


def column(values, **kind):
    table = pd.DataFrame({"subject": list(map(str, range(len(values)))), "x": values})
    found = tidy("d", table, {"x": Column(**kind)}, path=TABLE)
    return found.table["x"], [words for _, words in found.questioned]


def test_words_in_a_column_of_numbers_are_missing_and_named():
    values, said = column(["9y", "9", ""], kind="number")
    np.testing.assert_array_equal(values, [np.nan, 9, np.nan])
    assert said == [f"{Remark.NOT_NUMBERS}: x ('9y')"]


@pytest.mark.parametrize("word", ["NA", "nan", "None", "null", "-", "unknown", "refused"])
def test_a_few_words_in_a_column_of_numbers_do_not_make_it_text(word):
    values, said = column([*map(str, range(19)), word])
    np.testing.assert_array_equal(values, [*range(19), np.nan])
    assert said == [f"{Remark.NOT_NUMBERS}: x ('{word}')"]


def test_columns_of_text_stay_text_with_all_their_words():
    for values in (["NA", "A", "None"], ["1", "2", "B"], ["NA"], ["TRUE", "FALSE"], ["2001-02-03"]):
        found, said = column(values)
        assert found.tolist() == values
        assert said == ([f"{Remark.MIXED}: x ('B')"] if "B" in values else [])


def test_commas_in_numbers():
    values, said = column(["23,5", "1,25"])
    assert values.tolist() == [23.5, 1.25]
    assert said == [f"{Remark.COMMAS}: x"]
    values, said = column(["1,234", "2,500"])
    assert values.tolist() == ["1,234", "2,500"]
    assert said == [f"{Remark.EITHER_COMMAS}: x"]


def test_column_names_that_cannot_be_shown_are_replaced():
    table = pd.DataFrame({"subject": ["1"], "a\x1b[31m": ["1"], "a_[31m": ["2"]})
    found = tidy("d", table, {}, path=TABLE)
    assert found.columns["column"].tolist() == ["a_[31m_", "a_[31m"]
    assert found.table[["a_[31m_", "a_[31m"]].values.tolist() == [[1, 2]]
    assert found.questioned == [(TABLE, f"{Remark.COLUMN_NAME}: a_[31m_")]


def test_sex_by_letter_word_and_code():
    given = pd.Series(["F", "male", "1.0", "0", "", "other"])
    assert sex_labels(given, {"0": "F", "1": "M"}).tolist() == ["F", "M", "M", "F", "", ""]
    assert sex_labels(given).tolist() == ["F", "M", "", "", "", ""]


@pytest.mark.parametrize("other", ["7", ""])
def test_whole_numbers_that_a_float_cannot_hold_stay_text(other):
    """They are ids: 9007199254740993 would become ...992."""
    assert column(["9007199254740993", other])[0].tolist() == ["9007199254740993", other]
