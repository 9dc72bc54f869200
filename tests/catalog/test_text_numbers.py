"""Numbers in text: what a comma means, and what is no number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fmritok.pipeline.tables.text_numbers import numbers_of, one_number, text_to_numbers

NAN = np.nan


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (["23,5", "1,25", "7"], [23.5, 1.25, 7]),
        (["23,5", "1,234"], [23.5, 1.234]),
        (["0,125"], [0.125]),
        (["1.234,5", "2,5"], [1234.5, 2.5]),
        (["1,234,567", "1,234", "12"], [1234567, 1234, 12]),
        (["1,234", "2.5"], [1234, 2.5]),
        (["1,234", "2,500"], [NAN, NAN]),  # decimals or thousands
        (["23,5", "1,234.5", "1,234"], [23.5, 1234.5, NAN]),  # both in one column
        (["1,2,3", "x", "inf", "nan", "1_000", "0x1A", "1e400"], [NAN] * 7),
        (["-1.5e3", "+2", ".5", "3."], [-1500, 2, 0.5, 3]),
    ],
)
def test_columns_tell_what_a_comma_means(given, numbers):
    found, odd, commas = text_to_numbers(pd.Series(given))
    np.testing.assert_array_equal(found, numbers)
    assert odd.tolist() == np.isnan(numbers).tolist()
    assert commas == any("," in text and number == number
                         for text, number in zip(given, numbers, strict=True))  # fmt: skip


def test_missing_values_are_not_odd():
    found, odd, _ = text_to_numbers(pd.Series(["", "1"]))
    np.testing.assert_array_equal(found, [NAN, 1])
    assert not odd.any()


def test_lists_of_texts():
    for odd_text in ("nan", "x", "inf", "1_0"):
        numbers, odd = numbers_of(["1.5", "", odd_text])
        np.testing.assert_array_equal(numbers, [1.5, NAN, NAN])
        assert odd.tolist() == [False, False, True]
    assert numbers_of(["0,5", "1,25"])[0].tolist() == [0.5, 1.25]


@pytest.mark.parametrize("text", ["nan", "inf", "", "1 2", "1_0", "x"])
def test_one_number(text):
    assert one_number(" 0.061\n") == 0.061
    with pytest.raises(ValueError, match="is no number"):
        one_number(text)
