"""What the phenotype columns of a store hold: how many subjects, and which values."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["count_phenotypes"]

#: Values that are named.
_NAMED = 5


def count_phenotypes(phenotypes: pd.DataFrame, columns: pd.DataFrame) -> list[dict[str, Any]]:
    """Count the subjects and values of every phenotype column of every dataset.

    Parameters
    ----------
    phenotypes : pd.DataFrame
        ``dataset, subject, session`` and typed columns.
    columns : pd.DataFrame
        ``dataset, column, dtype, unit, source, meaning``.

    Returns
    -------
    list of dict
        ``dataset, column, type, unit, source, meaning``; ``subjects``, the number with a value;
        ``of``, the number in the table; ``different``, the number of values; for numbers ``min``
        and ``max``; otherwise ``values``, the most frequent ones with counts, except for ids.
    """
    by_dataset = dict(list(phenotypes.groupby("dataset"))) if len(phenotypes) else {}
    return [
        _counted(column, by_dataset.get(column["dataset"], phenotypes[:0]))
        for column in columns.to_dict("records")
        if column["column"] in phenotypes.columns
    ]


def _counted(column: dict[Any, Any], rows: pd.DataFrame) -> dict[str, Any]:
    values = rows[column["column"]]
    known = values.notna() & (values.astype(str) != "")
    values = values[known]
    found: dict[str, Any] = {
        "dataset": column["dataset"],
        "column": column["column"],
        "type": column["dtype"],
        "unit": str(column["unit"] or ""),
        "source": column["source"],
        "meaning": column["meaning"],
        "subjects": int(rows["subject"][known].nunique()),
        "of": int(rows["subject"].nunique()),
        "different": int(values.nunique()),
    }
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        low, high = (float(values.min()), float(values.max())) if len(values) else (None, None)
        return found | {"min": low, "max": high}
    frequent = values.astype(str).value_counts()
    # ties in the order of the values, whatever the order of the subjects
    frequent = frequent.sort_index().sort_values(ascending=False, kind="stable")
    are_ids = found["different"] == found["subjects"]  # each subject has its own
    named = frequent[: 0 if are_ids else _NAMED]
    return found | {"values": {str(v): int(n) for v, n in named.items()}}
