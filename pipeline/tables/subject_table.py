"""Read tables of subjects: ids as text, one row per subject, or per subject and session."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import TABLE_BYTES
from fmritok.pipeline.tables.text_numbers import first_examples
from fmritok.pipeline.tables.text_table import Dialect, MisalignedError, TextTable, find_column

__all__ = ["joined_rows", "read_subject_table"]

_OWN_NAMES = {"subject": "subject_in_table", "dataset": "dataset_in_table"}


def read_subject_table(
    path: Path,
    dialect: Dialect,
    ids: Sequence[str],
    *,
    prefix: str = "",
    sessions: Sequence[str] = (),
    missing: Collection[str] = (),
    columns: Collection[str] | None = None,
    subjects: Collection[str] | None = None,
    limit: int | None = TABLE_BYTES,
) -> tuple[pd.DataFrame, list[str]]:
    """Read a table of subjects as text, which keeps leading zeros of ids.

    Rows of the same subject and session are joined. Contradicting values become missing.

    Parameters
    ----------
    path : Path
    dialect : Dialect
    ids : sequence of str
        Names of the id column, in any case.
    prefix : str
        Optional prefix of ids that is removed: ``sub-``.
    sessions : sequence of str
        Names of a column of sessions. It is renamed to ``session``, and ``ses-`` is removed.
    missing : collection of str
        Further texts for missing values besides those of the dialect. They become ``""``.
    columns : collection of str, optional
        Columns to read besides the id. Default: all.
    subjects : collection of str, optional
        Subjects to keep. Default: all.
    limit : int, optional
        Largest size, bytes; None for streamed tables of any size.

    Returns
    -------
    pd.DataFrame
        Text, with the ids in a column ``subject``.
    list of str
        Remarks on doubtful values.

    Raises
    ------
    UnreadableError
        If the file cannot be read.
    CatalogError
        If the table has no id column, or its rows do not fit its header.
    """
    table = TextTable(path, dialect, limit=limit)
    id_column = find_column(table.header, ids)
    if id_column is None:
        raise CatalogError(
            expected("Phenotype table", path, f"a column {' or '.join(map(repr, ids))}",
                     ", ".join(map(repr, table.header[:5])) + ", ...", "Check the file.")
        )  # fmt: skip
    at_id = table.header.index(id_column)
    kept = [i for i, name in enumerate(table.header)
            if i != at_id and (columns is None or name in columns)]  # fmt: skip
    rows, without_id = [], 0
    try:
        for row in table.rows([at_id, *kept]):
            subject = row[0].removesuffix(".0")
            if prefix and subject.lower().startswith(prefix):
                subject = subject[len(prefix) :]
            if subject in ("", "n/a"):
                without_id += subjects is None
            elif subjects is None or subject in subjects:
                rows.append([subject, *row[1:]])
    except MisalignedError as error:
        raise CatalogError(
            expected("Phenotype table", path, "a table with a header, as text", error,
                     "Export it again.")
        ) from error  # fmt: skip
    said = table.said()
    if without_id:
        said.append(f"{Remark.NO_ID} ({without_id})")
    names = [table.header[i] for i in kept]
    frame = pd.DataFrame([row[1:] for row in rows], columns=range(len(names)), dtype=object)
    frame = frame.replace(dict.fromkeys(dialect.missing.union(missing), ""))
    frame = _without_empty_nameless(_same_columns_joined(frame, names, said))
    session = find_column(frame.columns, sessions)
    frame = frame.rename(columns=_OWN_NAMES)
    frame.insert(0, "subject", [row[0] for row in rows])
    if session is not None:
        frame = frame.rename(columns={session: "session"})
        frame["session"] = frame["session"].str.replace("^[sS]es-", "", regex=True)
    return joined_rows(frame, said), said


def joined_rows(frame: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Join rows of the same subject and session. Contradicting values become missing.

    Parameters
    ----------
    frame : pd.DataFrame
        Text.
    said : list of str
        A remark is appended here if there are such rows.
    """
    keys = ["subject", "session"] if "session" in frame else ["subject"]
    again = frame.duplicated(keys, keep=False)
    if not again.any():
        return frame
    said.append(f"{Remark.SAME_SUBJECT}: {first_examples(frame.loc[again, 'subject'])}")
    several = frame[again].groupby(keys, sort=False, as_index=False).agg(_agreed)
    first = frame[~frame.duplicated(keys)][keys]
    both = pd.concat([frame[~again], several])
    return first.merge(both, on=keys, how="left")[frame.columns.tolist()]


def _same_columns_joined(frame: pd.DataFrame, names: list[str], said: list[str]) -> pd.DataFrame:
    """Set the column names. Columns of the same name are joined."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        said.append(f"{Remark.SAME_COLUMN}: {first_examples(pd.Series(twice))}")
    columns = {}
    for name in dict.fromkeys(names):
        places = [i for i, other in enumerate(names) if other == name]
        columns[name] = (
            frame[places[0]] if len(places) == 1 else frame[places].apply(_agreed, axis=1)
        )
    return pd.DataFrame(columns, index=frame.index)


def _without_empty_nameless(frame: pd.DataFrame) -> pd.DataFrame:
    nameless = [c for c in map(str, frame) if c.startswith("Unnamed: ")]
    empty = [c for c in nameless if (frame[c] == "").all()]
    return frame.drop(columns=empty)


def _agreed(values: pd.Series) -> str:
    """Return the only value; empty if there are several different ones."""
    distinct = set(values) - {""}
    return distinct.pop() if len(distinct) == 1 else ""
