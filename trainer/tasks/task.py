"""A downstream task: a short YAML that says what is predicted, of whom, and how it is split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

import yaml

from fmritok.errors import expected
from fmritok.trainer.data.labels import EVENT_TARGET
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.metrics import METRICS
from fmritok.trainer.shipped import read_yaml, shipped_names, shipped_title

__all__ = [
    "By",
    "Kind",
    "SplitRule",
    "Task",
    "Unit",
    "did_you_mean",
    "read_task",
    "task_names",
    "task_title",
    "task_yaml",
]

Kind = Literal["binary", "multiclass", "regression", "retrieval"]
Unit = Literal["subject", "run", "window"]
By = Literal["family", "subject", "site", "leave-site-out"]

_PACKAGE = "fmritok.trainer.tasks.shipped"


@dataclass(frozen=True)
class SplitRule:
    """How units are divided into folds.

    Attributes
    ----------
    by : {"family", "subject", "site", "leave-site-out"}
        What is never on both sides. ``leave-site-out``: each site is a fold.
    folds, seeds : int
        Folds of each division, and divisions.
    """

    by: By = "family"
    folds: int = 5
    seeds: int = 5


@dataclass(frozen=True)
class Task:
    """What is predicted, of which units, and how predictions are scored.

    Attributes
    ----------
    name : str
    target : tuple of str
        Column of the subjects' table, or property of runs (``task``, ``session``, ``site``,
        ``dataset``), or ``trial_type`` of events. Of several, the first one that is there.
    kind : {"binary", "multiclass", "regression", "retrieval"}
        ``retrieval``: find the other runs of the same target, usually ``subject``.
    unit : {"subject", "run", "window"}
    metric : str
        What models are selected by; one of :data:`fmritok.trainer.evaluation.metrics.METRICS`.
    cohort : dict of str to tuple of str
        Runs that take part: property of a run to the values that it may have.
    classes : dict of str to tuple of str
        Name of each class to the values that are of it, in order; of two, the last is the
        positive one. Other values are left out. Empty: every value is a class.
    transform : {"none", "log"}
        Of numbers.
    delay, window : float
        Events: seconds from an onset to its window, and length of the window.
    split : SplitRule
    """

    name: str
    target: tuple[str, ...]
    kind: Kind
    unit: Unit
    metric: str
    cohort: dict[str, tuple[str, ...]] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    transform: Literal["none", "log"] = "none"
    delay: float = 4.0
    window: float = 8.0
    split: SplitRule = field(default_factory=SplitRule)


def did_you_mean(name: str, known: list[str], otherwise: str) -> str:
    """Return a next step that names up to three known names near to a wrong one."""
    by_small = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), list(by_small), n=3, cutoff=0.6)
    if not near:
        return otherwise
    return f"Did you mean {' or '.join(by_small[one] for one in near)}?"


def task_names() -> list[str]:
    """Return the names of the tasks that come with fmritok."""
    return shipped_names(_PACKAGE)


def task_title(name: str) -> str:
    """Return the first sentence of a task's comment."""
    return shipped_title(_PACKAGE, name)


def read_task(name_or_path: str) -> Task:
    """Read a task by its name, or a YAML file of the same form.

    Raises
    ------
    ConfigError
        If there is no such task, or a field is unknown, missing or does not go with another.
    """
    tree = read_yaml(
        _PACKAGE, name_or_path, what="Task", wanted="fields by name", see="See docs/tasks.md."
    )
    if tree is None:
        names = task_names()
        step = did_you_mean(name_or_path, names, "List the tasks with `fmritok list tasks`.")
        wanted = f"one of {', '.join(names)}, or the path of a YAML file"
        raise ConfigError(expected("Task", name_or_path, wanted, "an unknown name", step))
    return _task(name_or_path, tree)


def task_yaml(task: Task) -> str:
    """Write a resolved task as YAML that :func:`read_task` reads."""
    tree = asdict(task)
    tree["target"] = list(task.target)
    for name in ("cohort", "classes"):
        tree[name] = {key: list(values) for key, values in tree[name].items()}
    return yaml.safe_dump(tree, sort_keys=False)


def _task(where: str, tree: Mapping[str, Any]) -> Task:
    values = _known(where, tree, Task)
    lacking = [name for name in ("name", "target", "kind", "unit", "metric") if name not in values]
    if lacking:
        raise _wrong(where, lacking[0], "a value", "none")
    values["target"] = _words(where, "target", values["target"])
    for name in ("cohort", "classes"):
        chosen = values.get(name) or {}
        if not isinstance(chosen, Mapping):
            raise _wrong(where, name, "values by name", repr(chosen))
        values[name] = {str(key): _words(where, name, one) for key, one in chosen.items()}
    named = [value for several in values["classes"].values() for value in several]
    if len(set(named)) < len(named):
        doubled = next(value for value in named if named.count(value) > 1)
        raise _wrong(where, "classes", "every value in one class", f"{doubled} twice")
    for name, choices in (("kind", Kind), ("unit", Unit)):
        _choice(where, name, values[name], get_args(choices))
    _choice(where, "metric", values["metric"], METRICS[values["kind"]])
    _choice(where, "transform", values.get("transform", "none"), ("none", "log"))
    for name in ("delay", "window"):
        number = values.get(name, 1.0)
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise _wrong(where, name, "seconds", repr(number))
    if values.get("window", 1.0) <= 0:
        raise _wrong(where, "window", "seconds above 0", values["window"])
    of_events = values["target"] == (EVENT_TARGET,)
    if of_events != (values["unit"] == "window"):
        raise _wrong(where, "unit", f"window for the target {EVENT_TARGET}, and for no other",
                     values["unit"])  # fmt: skip
    if values["kind"] == "retrieval" and values["unit"] != "run":
        raise _wrong(where, "unit", "run for retrieval", values["unit"])
    if of_events and values["kind"] not in ("binary", "multiclass"):
        raise _wrong(where, "kind", f"binary or multiclass for {EVENT_TARGET}", values["kind"])
    if values["kind"] == "binary" and len(values["classes"]) not in (0, 2):
        raise _wrong(where, "classes", "two for a binary task", ", ".join(values["classes"]))
    values["split"] = _split(where, values.get("split") or {})
    return Task(**values)


def _split(where: str, tree: Any) -> SplitRule:
    if not isinstance(tree, Mapping):
        raise _wrong(where, "split", "by, folds and seeds", repr(tree))
    values = _known(where, tree, SplitRule)
    _choice(where, "split.by", values.get("by", "family"), get_args(By))
    for name, least in (("folds", 2), ("seeds", 1)):
        number = values.get(name, least)
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise _wrong(where, f"split.{name}", f"a whole number from {least} on", repr(number))
    return SplitRule(**values)


def _known(where: str, tree: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return the fields of a tree, all of which must be known."""
    names = [f.name for f in fields(kind)]
    for name in map(str, tree):
        if name not in names:
            step = did_you_mean(name, names, "Remove it.")
            wanted = f"one of {', '.join(names)}"
            raise ConfigError(
                expected("Field", f"{name} of task {where}", wanted, "an unknown one", step)
            )
    return dict(tree)


def _words(where: str, name: str, value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [value]
    if any(isinstance(x, bool) for x in several):
        raise _wrong(where, name, "text or numbers, yes and no in quotes", repr(value))
    if not several or not all(isinstance(x, str | int | float) for x in several):
        raise _wrong(where, name, "a value or a list of values", repr(value))
    return tuple(map(str, several))


def _choice(where: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _wrong(where, name, f"one of {', '.join(choices)}", repr(value))


def _wrong(where: str, name: str, wanted: str, got: object) -> ConfigError:
    return ConfigError(
        expected("Field", f"{name} of task {where}", wanted, got, "Correct the task's YAML.")
    )
