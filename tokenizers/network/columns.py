"""Find the parcels of an atlas among the named or numbered time courses of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.quantities import counted
from fmritok.tokenizers.spaces import ParcelSpace

__all__ = ["find_parcels", "is_count"]

#: What tools write before the name or number of a parcel: AFNI's 3dROIstats, C-PAC.
_BEFORE_NAMES = re.compile(r"^(#|Mean_)")
#: Smallest share of the atlas's parcels that a run must have.
_SHARE_NEEDED = 0.5


def is_count(names: Sequence[str]) -> bool:
    """Whether names are the numbers from 0 or 1 on, in order: they say nothing but the order."""
    plain = [_plain(name) for name in names]
    return any(plain == [str(first + i) for i in range(len(plain))] for first in (0, 1))


def find_parcels(
    space: ParcelSpace, names: Sequence[str], row: npt.NDArray[np.int64], where: str
) -> npt.NDArray[np.int64]:
    """Return the time course of each parcel of an atlas; -1 for parcels that the run lacks.

    Time courses are found by their names. Without names, or if the names are numbers in order, they
    must be those of the atlas's table, row by row.

    Parameters
    ----------
    space : ParcelSpace
    names : sequence of str
        Names of the atlas's parcels.
    row : np.ndarray of shape (n_parcels,), int64
        Row of each parcel in the atlas's table.
    where : str
        Name of the atlas, for errors.

    Raises
    ------
    RunError
        If the run has another number of parcels, or names that the atlas does not have.
    """
    columns = {_plain(name): i for i, name in enumerate(space.names)}
    if len(columns) < len(space.names):
        seen = [_plain(name) for name in space.names]
        twice = next(name for name in seen if seen.count(name) > 1)
        raise _refusal(where, "each parcel once", f"{twice!r} twice", "Rename or remove one.")
    wanted = [_plain(name) for name in names]
    found = np.array([columns.get(name, -1) for name in wanted], np.int64)
    n_known = int((found >= 0).sum())
    if space.names and n_known == len(space.names):
        if n_known >= _SHARE_NEEDED * len(names):
            return found
        raise _refusal(where, f"most of its {len(names)} parcels", f"{n_known} of them",
                       "Choose the atlas of the run.")  # fmt: skip
    if not space.names or is_count(space.names):
        if space.n_samples != len(names):
            raise _refusal(where, counted(len(names), "parcel"),
                           f"time courses of {space.n_samples}",
                           "Choose the atlas of the run; columns that are no parcels belong under "
                           "`skip`.")  # fmt: skip
        return row
    unknown = next(name for name in space.names if _plain(name) not in set(wanted))
    raise _refusal(
        where, f"names of its parcels, such as {names[0]!r}", f"{unknown!r}",
        "Choose the atlas of the run, correct its names, or list columns that are no parcels "
        "under `skip`.",
    )  # fmt: skip


def _plain(name: str) -> str:
    return _BEFORE_NAMES.sub("", name.strip().strip('"')).casefold()


def _refusal(where: str, wanted: str, got: str, next_step: str) -> RunError:
    return RunError(expected("Run", f"for atlas {where}", wanted, got, next_step))
