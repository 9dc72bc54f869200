"""Parse ages to years: ``36 Y``, ``018M``, ``90+``, ``23,5``. ``18-38`` is missing."""

from __future__ import annotations

import re

import pandas as pd

from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.text_numbers import PLACEHOLDERS, first_examples, text_to_numbers

__all__ = ["ages_in_years"]

_OLDEST = 125
_PER_YEAR = {"y": 1.0, "m": 12.0, "w": 365.25 / 7, "d": 365.25}
_UNIT = re.compile(
    r"(?P<y>y(ea)?rs?|y|yo)|(?P<m>m|mos?|months?)|(?P<w>w|wks?|weeks?)|(?P<d>d|days?)"
)
_WRITTEN = re.compile(
    r"(?P<least>(>=|>|≥)\s*)?(?P<number>[0-9]+([.,][0-9]+)?)\s*(?P<unit>[a-z ]*?)\.?\s*"
    r"(?P<top>\+)?",
    re.IGNORECASE,
)


def ages_in_years(values: pd.Series, unit: str = "") -> tuple[pd.Series, list[str]]:
    """Convert ages to years.

    Parameters
    ----------
    values : pd.Series
        Text; empty if missing.
    unit : str
        Unit in the description of the table; empty for years.

    Returns
    -------
    pd.Series
        Numbers as text; empty if there is no single number.
    list of str
        Remarks on doubtful values.
    """
    described = _unit(unit) if unit.strip() else "y"
    numbers, odd, commas = text_to_numbers(values)
    divisor = _PER_YEAR.get(described, float("nan"))
    years = values.where(~odd, "")
    converted = divisor != 1
    if commas or converted:
        years = (numbers / divisor).map(lambda age: "" if age != age else repr(round(age, 4)))
    topped: list[str] = []
    for text in dict.fromkeys(values[odd]):
        match = _WRITTEN.fullmatch(text)
        own = _unit(match["unit"]) if match and match["unit"] else described
        if match is None or own not in _PER_YEAR:
            continue
        if match["top"] or match["least"]:
            topped.append(text)
        converted = converted or own != "y"
        age = float(match["number"].replace(",", ".")) / _PER_YEAR[own]
        years[values == text] = repr(round(age, 4))
    told = pd.to_numeric(years.where(years != ""), errors="coerce")
    years = years.where(told.between(0, _OLDEST), "")
    unknown = values[(years == "") & (values != "") & ~values.str.lower().isin(PLACEHOLDERS)]
    said = []
    if len(unknown):
        said.append(f"{Remark.AGE_UNKNOWN}: {first_examples(unknown)}")
    if topped:
        said.append(f"{Remark.AGE_TOPPED}: {first_examples(pd.Series(topped))}")
    if converted and not (years == "").all():
        said.append(f"{Remark.AGE_UNIT}")
    if commas:
        said.append(f"{Remark.COMMAS}: age")
    return years, said


def _unit(text: str) -> str:
    """Return the letter of a unit of time; empty if unknown."""
    matches = (_UNIT.fullmatch(word) for word in re.findall("[a-z]+", text.lower()))
    return next((match.lastgroup or "" for match in matches if match), "")
