"""Columns that tasks and confounds are taken from: of the subjects' table, or of the runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fmritok.errors import expected
from fmritok.trainer.data.phenotypes import KEYS
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.task import did_you_mean

__all__ = ["RUN_PROPERTIES", "find_column", "known_columns"]

#: Properties of runs that can be predicted or regressed out.
RUN_PROPERTIES = ("task", "session", "site", "dataset", "subject")


def known_columns(phenotypes: pd.DataFrame) -> list[str]:
    """Return the columns of the subjects' table, and the properties of runs."""
    own = [str(c) for c in phenotypes.columns if c not in KEYS]
    return [*own, *(name for name in RUN_PROPERTIES if name not in own)]


def find_column(
    names: Sequence[str], phenotypes: pd.DataFrame, *, what: str, where: str, next_step: str = ""
) -> str:
    """Return the first of several columns that is there, in whatever case it is written.

    Parameters
    ----------
    names : sequence of str
    phenotypes : pd.DataFrame
    what, where : str
        Beginning of the message, such as ``Column`` and ``of task hcp-sex``.
    next_step : str
        If no name is near.

    Raises
    ------
    ConfigError
        Naming the columns that are missing, and near ones.
    """
    known = known_columns(phenotypes)
    by_small = {name.lower(): name for name in reversed(known)}
    for name in names:
        if name in known:
            return name
        if name.lower() in by_small:
            return by_small[name.lower()]
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    step = next_step or "Tokenize with phenotype tables that have it, or choose another column."
    for name in names:
        step = did_you_mean(name, known, step)
    raise ConfigError(
        expected(what, f"{' or '.join(names)} {where}", "a column of the store's subjects or runs",
                 f"none of that name among {shown}", step)
    )  # fmt: skip
