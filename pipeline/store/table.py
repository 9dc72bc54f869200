"""A pandas table as one zarr group: an array per column, readable with zarr-python alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import zarr

__all__ = ["read_table", "write_table"]

_ROWS_PER_CHUNK = 16384
_TEXT = "TUO"  # kinds of numpy's string types


def write_table(parent: zarr.Group, name: str, table: pd.DataFrame) -> None:
    """Write a table below ``parent``; rows may be added later, and are never seen half-written.

    Strings become variable-length UTF-8 (missing: ``""``), booleans ``bool``, integers ``int64``
    and other numbers ``float64`` (missing: NaN). Each column is one object per 16,384 rows,
    replaced atomically; readers trust the group's attribute ``rows``, which is written last.

    Parameters
    ----------
    parent : zarr.Group
    name : str
        Name of the table's group.
    table : pd.DataFrame
        Its index is not stored.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group = parent.require_group(name)
    for column in table.columns:
        values = _column(table[column])
        dtype = str if values.dtype == object else values.dtype
        array: Any = group.get(column)
        if array is None or (array.dtype.kind in _TEXT) != (values.dtype == object):
            array = group.create_array(
                column,
                shape=(len(values),),
                chunks=(_ROWS_PER_CHUNK,),
                dtype=dtype,
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                dimension_names=["row"],
                overwrite=True,
            )
        elif array.shape[0] != len(values):
            array.resize((len(values),))
        if len(values):
            array[:] = values
    group.attrs.update({"columns": list(table.columns), "rows": len(table)})


def read_table(group: zarr.Group) -> pd.DataFrame:
    """Read a table that :func:`write_table` wrote."""
    rows = int(group.attrs["rows"])  # type: ignore[arg-type]
    columns = {}
    for name in group.attrs["columns"]:  # type: ignore[union-attr]
        values = np.asarray(group[str(name)][:rows])  # type: ignore[index]
        columns[str(name)] = values.astype(object) if values.dtype.kind in "TU" else values
    return pd.DataFrame(columns)


def _column(series: pd.Series) -> np.ndarray:
    if pd.api.types.is_bool_dtype(series):
        return series.to_numpy(bool)
    if pd.api.types.is_integer_dtype(series) and not series.isna().any():
        return series.to_numpy(np.int64)
    if pd.api.types.is_numeric_dtype(series):
        return series.to_numpy(np.float64, na_value=np.nan)
    return series.fillna("").astype(str).to_numpy(object)
