"""Pandas tables as zarr groups with one array per column, readable with zarr-python.

Stored tables are immutable. A changed table is written as a new one beside the old one. The
document of the group (:mod:`fmritok.pipeline.store.documents.seal`) names the table in force.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fmritok.pipeline.store.chunks.arrays import decode_arrays

if TYPE_CHECKING:
    import zarr

__all__ = ["decode_table", "encode_arrays", "encode_table", "in_memory", "table_path", "typed"]

_ROWS_PER_CHUNK = {"text": 65_536, "number": 1_048_576}
#: Placeholder for missing integers.
_MISSING_INTEGER = np.iinfo(np.int64).min
_NULLABLE: dict[str, Any] = {"int64": "Int64", "bool": "boolean"}


def encode_table(table: pd.DataFrame) -> dict[str, bytes]:
    """Encode a table to files, by path below the path of the table.

    Integers become ``int64``, booleans ``bool``, other numbers ``float64`` with NaN for missing
    values, everything else UTF-8 text. If a column other than ``float64`` has missing values, a
    second array ``NAME.missing`` is true for them. The attribute ``columns`` of the group lists the
    arrays and the type of each column, in order.

    Parameters
    ----------
    table : pd.DataFrame
        The index is not stored.
    """
    arrays: dict[str, np.ndarray] = {}
    columns = []
    for name in table.columns:
        values, missing = _column(typed(table[name]))
        array = _array_name(str(name), arrays)
        arrays[array] = values
        column: dict[str, Any] = {"name": str(name), "array": array, "type": _type_name(values)}
        if missing is not None:
            column["missing"] = f"{array}.missing"
            arrays[column["missing"]] = missing
        columns.append(column)
    return encode_arrays(arrays, attributes={"rows": len(table), "columns": columns})


def decode_table(files: Mapping[str, bytes]) -> pd.DataFrame:
    """Decode the files of :func:`encode_table` to a table with missing values.

    Raises
    ------
    ValueError
        If the files are not a table.
    """
    arrays, attributes = decode_arrays(files)
    try:
        return _table_of(arrays, attributes)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("attributes that do not describe a table") from error


def _table_of(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    rows = attributes["rows"]
    if type(rows) is not int or rows < 0:
        raise ValueError(f"{rows} rows")
    for column in attributes["columns"]:
        name, values = column["name"], arrays[column["array"]]
        missing = arrays[column["missing"]] if "missing" in column else None
        if not isinstance(name, str) or name in columns:
            raise ValueError(f"a column named {name!r}, or two")
        if values.shape != (rows,) or _type_name(values) != column["type"]:
            raise ValueError(f"column {name} holds {values.dtype} of shape {values.shape}")
        if missing is not None and (missing.shape != (rows,) or missing.dtype != bool):
            raise ValueError(f"column {name} has no truth values of what is missing")
        if column["type"] == "text":
            if missing is not None:
                values[missing] = None
            # dtype object: pandas' string type would change when text and numbers are mixed.
            columns[name] = pd.Series(values, dtype=object)
        elif missing is not None:
            columns[name] = pd.Series(values).astype(_NULLABLE[column["type"]]).mask(missing)
        else:
            columns[name] = values
    return pd.DataFrame(columns, index=pd.RangeIndex(rows))


def table_path(name: str, files: Mapping[str, bytes]) -> str:
    """Return the path of a table below its group. It is derived from the content."""
    digest = hashlib.sha256()
    for key in sorted(files):
        digest.update(f"{key}\0{len(files[key])}\0".encode())
        digest.update(files[key])
    return f"{name}/{digest.hexdigest()[:16]}"


def typed(series: pd.Series) -> pd.Series:
    """Return a column with a dtype that keeps its values, also with missing ones.

    Integers become ``int64`` or ``Int64``, booleans ``bool`` or ``boolean``, other numbers
    ``float64``, everything else text (``object``). Mixed columns also become text.
    """
    kind = pd.api.types.infer_dtype(series, skipna=True)
    has_missing = bool(series.isna().any())
    if kind == "empty":  # only missing values: keep the kind of the dtype
        if pd.api.types.is_bool_dtype(series):
            return series.astype("boolean" if has_missing else bool)
        if pd.api.types.is_integer_dtype(series):
            return series.astype("Int64" if has_missing else np.int64)
        return _numbers(series) if pd.api.types.is_float_dtype(series) else _text(series)
    if kind == "boolean":
        return series.astype("boolean" if has_missing else bool)
    if kind == "integer":
        return series.astype("Int64" if has_missing else np.int64)
    if kind in ("floating", "mixed-integer-float"):
        return _numbers(series)
    return _text(series)


def encode_arrays(
    arrays: Mapping[str, np.ndarray], *, attributes: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Encode arrays to the files of a zarr group. Text has dtype object."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    def fill(group: zarr.Group) -> None:
        for name, values in arrays.items():
            is_text = values.dtype == object
            rows = _ROWS_PER_CHUNK["text" if is_text else "number"]
            array: Any = group.create_array(
                name,
                shape=values.shape,
                chunks=(min(rows, max(1, len(values))), *(max(1, n) for n in values.shape[1:])),
                dtype=str if is_text else values.dtype,
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                dimension_names=["row", *(f"axis{i}" for i in range(1, values.ndim))],
                config={"write_empty_chunks": True},
            )
            if values.size:
                array[...] = values

    return in_memory(fill, attributes or {})


def in_memory(fill: Any, attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a zarr group that is filled by a function."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    fill(zarr.open_group(MemoryStore(files), mode="w", attributes=dict(attributes)))
    return {key: bytes(files[key].to_bytes()) for key in sorted(files)}


def _column(series: pd.Series) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values of a typed column, and the mask of missing ones or None."""
    if series.dtype.kind == "f":
        return series.to_numpy(np.float64), None
    missing = series.isna().to_numpy(bool)
    if series.dtype == object:
        values = series.to_numpy(object, copy=True)
        values[missing] = ""
    elif pd.api.types.is_bool_dtype(series):
        values = series.fillna(False).to_numpy(bool)
    else:
        values = series.fillna(_MISSING_INTEGER).to_numpy(np.int64)
    return values, missing if missing.any() else None


def _numbers(series: pd.Series) -> pd.Series:
    return pd.Series(series.to_numpy(np.float64, na_value=np.nan), index=series.index)


def _text(series: pd.Series) -> pd.Series:
    missing = series.isna().to_numpy(bool)
    values = np.array([None if gone else str(value) for value, gone in zip(series, missing,
                      strict=True)], dtype=object)  # fmt: skip
    return pd.Series(values, index=series.index, dtype=object)


def _type_name(values: np.ndarray) -> str:
    return "text" if values.dtype == object else str(values.dtype)


def _array_name(column: str, taken: Mapping[str, Any]) -> str:
    """Return a unique name of a column that is safe as a path."""
    name = re.sub(r"[^A-Za-z0-9_ -]", "_", column)[:100] or "_"
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique
