"""Parse numbers in tables of text: decimal commas, thousands commas, words for missing values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = [
    "PLACEHOLDERS", "first_examples", "numbers_of", "one_number", "plain_numbers",
    "text_to_numbers",
]  # fmt: skip

#: Words and signs for missing numbers, in lower case.
PLACEHOLDERS = frozenset({"na", "n/a", "#n/a", "nan", "null", "none", "missing", "unknown",
                          "-", "--", ".", "?"})  # fmt: skip
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL = r"[+-]?[0-9]+,[0-9]+"
_THOUSANDS = r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?"
_EUROPEAN = r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+,[0-9]+"


def text_to_numbers(values: pd.Series) -> tuple[pd.Series, pd.Series, bool]:
    """Convert a column of text to numbers.

    The meaning of commas is decided per column: ``23,5`` has a decimal comma, ``1,234,567`` has
    thousands commas. A column with only values such as ``1,234`` is ambiguous: these are not
    numbers.

    Parameters
    ----------
    values : pd.Series
        Text; empty if missing.

    Returns
    -------
    numbers : pd.Series
        ``float64``; NaN for missing values and other text.
    odd : pd.Series
        Mask of text that is neither a number nor missing.
    commas : bool
        Whether any number has a comma.
    """
    present = values != ""
    numbers = pd.to_numeric(values.where(present), errors="coerce").astype(np.float64)
    odd = present & ~np.isfinite(numbers)
    commas = odd & values.str.contains(",", regex=False)
    plain = _without_commas(values[commas], values) if commas.any() else values[commas]
    if len(plain):
        numbers[plain.index] = pd.to_numeric(plain).astype(np.float64)
        odd[plain.index] = False
    return numbers.where(~odd), odd, len(plain) > 0


def numbers_of(values: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Convert texts to numbers with NaN for all others, and return the mask of other text."""
    try:
        if "_" in "".join(values):
            raise ValueError("Python's own spelling of numbers")
        numbers = np.array([float(v) if v else np.nan for v in values], np.float64)
        odd = ~np.isfinite(numbers) & np.array([bool(v) for v in values], bool)
    except ValueError:
        found, strange, _ = text_to_numbers(pd.Series(list(values), dtype=object))
        return found.to_numpy(np.float64), strange.to_numpy(bool)
    numbers[odd] = np.nan
    return numbers, odd


def plain_numbers(texts: Sequence[str]) -> list[float]:
    """Convert texts to finite numbers.

    Raises
    ------
    ValueError
        If a text is not a finite number.
    """
    together = "".join(texts)
    if "_" in together or not together.isascii():
        raise ValueError("Python's own spelling of numbers")
    numbers = list(map(float, texts))
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers


def one_number(text: str) -> float:
    """Convert a text to a finite number.

    Raises
    ------
    ValueError
        If it is not a number, or ``nan`` or ``inf``.
    """
    if not (text.isdecimal() and text.isascii()) and not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text[:40]!r} is no number")
    return float(text)


def first_examples(values: pd.Series, most: int = 3) -> str:
    """Return the first distinct values, quoted, with ``...`` if there are more."""
    distinct = list(dict.fromkeys(values))
    return ", ".join(repr(v[:40]) for v in distinct[:most]) + (", ..." if distinct[most:] else "")


def _without_commas(given: pd.Series, column: pd.Series) -> pd.Series:
    """Return the values with unambiguous commas, converted to decimal points."""
    decimal, thousands, european = (
        given.str.fullmatch(pattern) for pattern in (_DECIMAL, _THOUSANDS, _EUROPEAN)
    )
    has_points = column.str.fullmatch(r"[+-]?[0-9]*\.[0-9]+").any()
    are_decimals = european | (decimal & ~thousands)
    are_thousands = thousands & ~decimal
    either = decimal & thousands
    if are_decimals.any() and not (are_thousands.any() or has_points):
        are_decimals |= either
    elif (are_thousands.any() or has_points) and not are_decimals.any():
        are_thousands |= either
    decimals = given[are_decimals].str.replace(".", "", regex=False).str.replace(",", ".")
    return pd.concat([decimals, given[are_thousands].str.replace(",", "", regex=False)])
