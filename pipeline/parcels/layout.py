"""How the time courses of a cohort's parcels lie in their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.quantities import counted

__all__ = ["Matrix", "SeriesLayout", "frames_by_parcels"]

#: Columns that AFNI's 3dROIstats writes before those of parcels.
_NO_PARCELS = ("file", "sub-brick")
_SAY = "Say `frames: rows` or `frames: columns` in the description of the cohort."


@dataclass(frozen=True)
class SeriesLayout:
    """What a matrix in a file means.

    Attributes
    ----------
    n_parcels : int
        Parcels of the atlas; 0 if unknown.
    frames : {"rows", "columns", ""}
        Which axis is time. Empty: rows, unless the matrix is square and has no names.
    skip : tuple of str, or int
        Names of columns that are no parcels, or the number of such columns at the left edge. With
        ``frames`` = columns, of rows at the top.
    """

    n_parcels: int = 0
    frames: Literal["rows", "columns", ""] = ""
    skip: tuple[str, ...] | int = ()

    def to_text(self) -> str:
        """Return it as JSON, for :class:`fmritok.pipeline.sources.opening.RunFiles`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> SeriesLayout:
        """Read the result of :meth:`to_text`."""
        fields = json.loads(text)
        skip = fields.pop("skip")
        return cls(**fields, skip=skip if isinstance(skip, int) else tuple(skip))


@dataclass(frozen=True, eq=False)
class Matrix:
    """Shape and names of a matrix in a file, with or without its values.

    Attributes
    ----------
    n_rows, n_columns : int
    columns, rows : tuple of str
        Names of columns and rows; empty if there are none. A file has one of them or both.
    text_columns : int
        Columns of text at the left edge; they are counted in `n_columns` and `columns`.
    values : np.ndarray of shape (n_rows, n_columns - text_columns), float, optional
    """

    n_rows: int
    n_columns: int
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    text_columns: int = 0
    values: npt.NDArray[np.floating] | None = None


def frames_by_parcels(
    matrix: Matrix, layout: SeriesLayout, path: Path
) -> tuple[int, tuple[str, ...], npt.NDArray[np.int64]]:
    """Return what the rows and columns of a matrix are.

    Parameters
    ----------
    matrix : Matrix
    layout : SeriesLayout
    path : Path
        Its file, for errors.

    Returns
    -------
    n_frames : int
    names : tuple of str
        Names of the parcels; empty if they have none.
    chosen : np.ndarray of int
        Positions of the parcels along their axis, columns of text not counted.

    Raises
    ------
    RunError
        If the axes are unclear, or the number of parcels differs from that of the atlas.
    """
    if layout.frames == "columns":
        n_frames = matrix.n_columns - matrix.text_columns
        names, n_names, text = matrix.rows, matrix.n_rows, 0
    else:
        n_frames, names, n_names = matrix.n_rows, matrix.columns, matrix.n_columns
        text = matrix.text_columns
    kept = _kept(names, n_names, text, layout, path)
    numbers = kept - text
    found = tuple(names[i] for i in kept) if names else ()
    if (numbers < 0).any():
        raise RunError(
            expected("Column", f"1 of {path}", "numbers", "text",
                     "If each row is a parcel, say `frames: columns`; if the column is no parcel, "
                     "list it under `skip`.")
        )  # fmt: skip
    if not layout.frames and not names and n_frames == len(kept) == layout.n_parcels:
        raise RunError(
            expected("Matrix", f"in {path}", "frames and parcels that can be told apart",
                     f"{counted(n_frames, 'row')} and as many columns", _SAY)
        )  # fmt: skip
    if layout.n_parcels and not found and len(kept) != layout.n_parcels:
        axis = "rows" if layout.frames == "columns" else "columns"
        raise RunError(
            expected("Matrix", f"in {path}",
                     f"{counted(layout.n_parcels, 'parcel')} in the {axis}, as the atlas has",
                     f"{len(kept)}", _advice(n_frames, layout))
        )  # fmt: skip
    return n_frames, found, numbers


def _kept(
    names: Sequence[str], n_names: int, text: int, layout: SeriesLayout, path: Path
) -> npt.NDArray[np.int64]:
    """Return the positions that are parcels."""
    if isinstance(layout.skip, int):
        return np.arange(layout.skip, max(n_names, layout.skip))
    unknown = [name for name in layout.skip if name not in names]
    if unknown:
        raise RunError(
            expected("Columns", f"of {path}", f"{unknown[0]!r}, to `skip` it",
                     ", ".join(map(repr, names[:5])) + ", ..." if names else "no names",
                     "Correct the name under `skip`.")
        )  # fmt: skip
    dropped = {*layout.skip, *(n for n in names[:2] if n.strip().lower() in _NO_PARCELS)}
    if names and all(names[1:]):
        dropped.add("")  # the index of a table of pandas or R
    kept = [i for i in range(n_names) if not names or names[i] not in dropped]
    return np.array(kept, np.int64)


def _advice(n_frames: int, layout: SeriesLayout) -> str:
    if n_frames == layout.n_parcels:
        other = "rows" if layout.frames == "columns" else "columns"
        return f"The other axis fits: say `frames: {other}`, if it is the parcels."
    return "Give the atlas of this run; columns that are no parcels belong under `skip`."
