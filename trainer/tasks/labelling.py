"""From the values of a column to labels: classes by name, or numbers; what is none is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.task import Task

__all__ = ["classes_of", "numbers_of", "require_classes", "require_two", "with_classes"]


def classes_of(
    task: Task, column: str, words: npt.NDArray[np.str_], has: npt.NDArray[np.bool_]
) -> tuple[Task, npt.NDArray[np.str_]]:
    """Name the class of each value, empty if it is of none; by default each value is a class.

    Parameters
    ----------
    task : Task
    column : str
    words : np.ndarray of shape (n,), str
    has : np.ndarray of shape (n,), bool
        Where there is a value.

    Returns
    -------
    task : Task
        With its classes.
    names : np.ndarray of shape (n,), str

    Raises
    ------
    ConfigError
        If no value is of any class.
    """
    if task.kind == "retrieval":
        return task, words
    if not task.classes:
        task = replace(task, classes={word: (word,) for word in sorted(set(words[has].tolist()))})
    of_value = {value: name for name, values in task.classes.items() for value in values}
    found = np.array([of_value.get(word, "") for word in words], dtype=str)
    if has.any() and not (has & (found != "")).any():
        raise ConfigError(
            expected("Column", f"{column} of task {task.name}",
                     f"values among {', '.join(of_value)}",
                     ", ".join(sorted(set(words[has].tolist()))[:10]),
                     "Write a task of your own with other classes.")
        )  # fmt: skip
    return task, found


def with_classes(task: Task, present: list[str]) -> Task:
    """Keep the classes that units are of."""
    return replace(task, classes={k: v for k, v in task.classes.items() if k in present})


def numbers_of(task: Task, column: str, values: pd.Series) -> npt.NDArray[np.floating[Any]]:
    """Return the numbers of a column, transformed as the task says; NaN where one is missing.

    Raises
    ------
    ConfigError
        If a value is no finite number, or has no logarithm.
    """
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    wrong = np.isnan(numbers) & values.notna().to_numpy() | np.isinf(numbers)
    if wrong.any():
        raise ConfigError(
            expected("Column", f"{column} of task {task.name}", "finite numbers",
                     str(values[wrong].iloc[0]), "Choose another column, or another kind of task.")
        )  # fmt: skip
    if task.transform == "log":
        if (numbers <= 0).any():
            raise ConfigError(
                expected("Column", f"{column} of task {task.name}", "numbers above 0, for their "
                         "logarithm", f"{np.nanmin(numbers):g}", "Choose transform: none.")
            )  # fmt: skip
        return np.asarray(np.log(numbers))
    return numbers


def require_two(
    task: Task, column: str, distinct: list[Any], excluded: Mapping[str, int] | None = None
) -> None:
    """Refuse fewer than two different labels.

    Parameters
    ----------
    task : Task
    column : str
    distinct : list
        Different labels.
    excluded : dict of str to int, optional
        Units that were left out, by reason.

    Raises
    ------
    ConfigError
    """
    if len(distinct) < 2:
        got = ", ".join(map(str, distinct)) or "none"
        for reason, count in (excluded or {}).items():
            got += f"; left out: {counted(count, task.unit)}, {reason}"
        raise ConfigError(
            expected("Column", f"{column} of task {task.name}", "two or more different labels",
                     got, "Choose other runs or another task.")
        )  # fmt: skip


def require_classes(
    task: Task, column: str, present: list[str], excluded: Mapping[str, int] | None = None
) -> None:
    """Refuse fewer than two classes, and of a binary task more; see :func:`require_two`.

    Raises
    ------
    ConfigError
    """
    require_two(task, column, present, excluded)
    if task.kind == "binary" and len(present) != 2:
        raise ConfigError(
            expected("Column", f"{column} of task {task.name}", "two classes",
                     f"{len(present)}: {', '.join(present[:10])}",
                     "Choose kind: multiclass, or name the values of two classes in its YAML.")
        )  # fmt: skip
