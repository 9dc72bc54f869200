"""Ages as tables have them, in years; bins and other units are no wrong years."""

from __future__ import annotations

import pandas as pd
import pytest

from fmritok.pipeline.tables.ages import ages_in_years
from fmritok.pipeline.tables.remarks import Remark


@pytest.mark.parametrize(
    ("years", "given"),
    [
        ("23", [("23", ""), ("23", "Year(s)")]),
        ("23.5", [("23.5", "years")]),
        ("36.0", [("36 Y", ""), ("036Y", ""), ("36 years old", "")]),
        ("", [("n/a", ""), ("", "")]),
    ],
)
def test_ages_in_years_are_read_without_a_remark(years, given):
    for text, unit in given:
        found, said = ages_in_years(pd.Series([text]), unit)
        assert (found.tolist(), said) == ([years], []), (text, unit)


@pytest.mark.parametrize(
    ("given", "unit", "years", "remark"),
    [
        ("018M", "", "1.5", Remark.AGE_UNIT),
        ("18", "months", "1.5", Remark.AGE_UNIT),
        ("36 y", "months", "36.0", Remark.AGE_UNIT),
        ("40", "weeks", "0.7666", Remark.AGE_UNIT),
        ("90+", "", "90.0", Remark.AGE_TOPPED),
        (">89", "", "89.0", Remark.AGE_TOPPED),
        ("23,5", "", "23.5", Remark.COMMAS),
    ],
)
def test_other_ages_are_converted_with_a_remark(given, unit, years, remark):
    found, said = ages_in_years(pd.Series([given]), unit)
    assert found.tolist() == [years]
    assert [words.split(":")[0] for words in said] == [str(remark)]


@pytest.mark.parametrize("given", ["18-38", "<5", "-999", "999", "1999-05-01", "23 quarters"])
def test_unknown_ages_are_missing_with_a_remark(given):
    text, _, unit = given.partition(" ")
    found, said = ages_in_years(pd.Series([text]), unit)
    assert found.tolist() == [""]
    assert [words.split(":")[0] for words in said] == [str(Remark.AGE_UNKNOWN)]


def test_examples_are_named_once():
    _, said = ages_in_years(pd.Series(["18-38", "18-38", "39-50", "23"]))
    assert said == [f"{Remark.AGE_UNKNOWN}: '18-38', '39-50'"]
