"""Ages as tables have them, in years; bins and other units are no wrong years."""

from __future__ import annotations

import pandas as pd
import pytest

from fmritok.pipeline.tables.ages import ages_in_years
from fmritok.pipeline.tables.remarks import Remark


@pytest.mark.parametrize(
    ("given", "unit", "years", "remark"),
    [
        ("23", "", "23", None),
        ("23.5", "years", "23.5", None),
        ("23", "Year(s)", "23", None),
        ("36 Y", "", "36.0", None),
        ("036Y", "", "36.0", None),
        ("36 years old", "", "36.0", None),
        ("018M", "", "1.5", Remark.AGE_UNIT),
        ("18", "months", "1.5", Remark.AGE_UNIT),
        ("36 y", "months", "36.0", Remark.AGE_UNIT),
        ("40", "weeks", "0.7666", Remark.AGE_UNIT),
        ("90+", "", "90.0", Remark.AGE_TOPPED),
        (">89", "", "89.0", Remark.AGE_TOPPED),
        ("23,5", "", "23.5", Remark.COMMAS),
        ("18-38", "", "", Remark.AGE_UNKNOWN),
        ("<5", "", "", Remark.AGE_UNKNOWN),
        ("-999", "", "", Remark.AGE_UNKNOWN),
        ("999", "", "", Remark.AGE_UNKNOWN),
        ("1999-05-01", "", "", Remark.AGE_UNKNOWN),
        ("23", "quarters", "", Remark.AGE_UNKNOWN),
        ("n/a", "", "", None),
        ("", "", "", None),
    ],
)
def test_ages(given, unit, years, remark):
    found, said = ages_in_years(pd.Series([given]), unit)
    assert found.tolist() == [years]
    assert [words.split(":")[0] for words in said] == ([str(remark)] if remark else [])


def test_examples_are_named_once():
    _, said = ages_in_years(pd.Series(["18-38", "18-38", "39-50", "23"]))
    assert said == [f"{Remark.AGE_UNKNOWN}: '18-38', '39-50'"]
