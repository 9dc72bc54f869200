"""Options that all commands of a task share, and how such a command ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fmritok.quantities import counted

if TYPE_CHECKING:
    from fmritok.trainer.evaluation.summary import Results
    from fmritok.trainer.tasks.division import SplitOptions
    from fmritok.trainer.tasks.task import By, Task

__all__ = ["TaskOptions", "report_results", "task_options"]

_PATH = click.Path(path_type=Path)
_FEW = 30  # units, of which scores vary widely


@dataclass(frozen=True)
class TaskOptions:
    """What a user says of a task: its data, its division, and where results go.

    Attributes
    ----------
    task, store : str
        Name or file of a task, empty if the command names several; location of the token store.
    group : str or None
    where : tuple of str
        ``column=value``: which runs, instead of what the task says of that property.
    by, folds, seeds : optional
        Instead of the task's own.
    split, held_out, pretraining : Path or None
        See :class:`~fmritok.trainer.tasks.division.SplitOptions`.
    out : Path
    json : bool
    """

    task: str
    store: str
    group: str | None
    where: tuple[str, ...]
    by: By | None
    folds: int | None
    seeds: int | None
    split: Path | None
    held_out: Path | None
    pretraining: Path | None
    out: Path
    json: bool

    def read_task(self) -> Task:
        """Return the task, divided as these options say.

        Raises
        ------
        ConfigError
            If there is no such task.
        """
        from fmritok.trainer.tasks.task import read_task

        return self.divided(read_task(self.task))

    def divided(self, task: Task) -> Task:
        """Return a task divided as these options say."""
        from fmritok.trainer.tasks.task import SplitRule

        rule = task.split
        rule = SplitRule(self.by or rule.by, self.folds or rule.folds, self.seeds or rule.seeds)
        return replace(task, split=rule)

    @property
    def division(self) -> SplitOptions:
        """A division other than the task's rule."""
        from fmritok.trainer.tasks.division import SplitOptions

        return SplitOptions(self.split, self.held_out, self.pretraining)


def task_options(
    *, out: str, one_task: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of :class:`TaskOptions`, as its first argument.

    Parameters
    ----------
    out : str
        Default of ``--out``.
    one_task : bool
        Whether it takes exactly one ``--task``; otherwise it has an option of its own.
    """
    options = [
        click.option("--task", required=True, metavar="NAME|FILE",
                     help="Task: see `fmritok list tasks`; or a YAML file of one."),
        click.option("--store", required=True, help="Token store: a folder or a URL."),
        click.option("--group", metavar="NAME", help="Token group. [default: the only one that "
                     "fits]"),
        click.option("--where", multiple=True, metavar="COLUMN=VALUE",
                     help="Use only runs with this value, instead of what the task says of the "
                     "column; repeatable."),
        click.option("--by", type=click.Choice(["family", "subject", "site", "leave-site-out"]),
                     help="What is never on both sides of a split. [default: the task's]"),
        click.option("--folds", type=click.IntRange(2), help="Number of folds. [default: the "
                     "task's]"),
        click.option("--seeds", type=click.IntRange(1), help="Number of repetitions, each with its "
                     "own folds. [default: the task's]"),
        click.option("--split", type=_PATH, metavar="FILE", help="File with the ids of train, "
                     "validation and test."),
        click.option("--held-out", type=_PATH, metavar="TRAINING",
                     help="Test on the subjects that this training held out."),
        click.option("--pretraining", type=_PATH, metavar="TRAINING",
                     help="Count the tested subjects that this training has seen."),
        click.option("--out", type=_PATH, default=Path(out), show_default=True,
                     help="Folder to write to."),
        click.option("--json", is_flag=True, help="Print JSON instead of a table."),
    ]  # fmt: skip
    if not one_task:
        options.pop(0)
    names = [field.name for field in fields(TaskOptions) if one_task or field.name != "task"]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def called(**values: Any) -> Any:
            chosen = {name: values.pop(name) for name in names}
            shared = TaskOptions(**{"task": "", **chosen})
            return command(shared, **values)

        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(options):
            called = option(called)
        return called

    return decorate


def report_results(
    results: Results | Sequence[Results], options: TaskOptions
) -> list[dict[str, Any]]:
    """Write results, print them as tables or as JSON, and return what is written.

    The results of several tasks go to a folder for each, named after the task.
    """
    from fmritok.terminal import echo, new_console
    from fmritok.trainer.evaluation.results import results_table, write_results
    from fmritok.trainer.evaluation.summary import Results

    several = [results] if isinstance(results, Results) else list(results)
    names = [one.units.task.name for one in several]
    folders = [options.out / name if len(several) > 1 else options.out for name in names]
    trees = [
        write_results(folder, one) for folder, one in zip(folders, several, strict=True)
    ]  # fmt: skip
    if options.json:
        click.echo(json.dumps(trees if len(trees) > 1 else trees[0], indent=1))
        return trees
    console = new_console()
    if not console.is_terminal:  # a file: nothing to wrap at
        console = new_console(width=160)
    for tree in trees:
        console.print(results_table(tree))
        _print_remarks(tree)
    echo(f"Predictions, scores and folds: {', '.join(map(str, folders))}")
    return trees


def _print_remarks(tree: dict[str, Any]) -> None:
    from fmritok.terminal import echo

    if tree["n_units"] < _FEW:
        echo(f"Warning: Few units: {tree['task']} ({counted(tree['n_units'], tree['unit'])}). "
             f"Scores of fewer than {_FEW} vary widely by chance.", err=True)  # fmt: skip
    for reason, one in tree["excluded"].items():
        echo(f"Left out: {counted(one['count'], tree['unit'])}, {reason}.")
    overlaps = [tree.get("overlap"), *(row.get("overlap") for row in tree["rows"])]
    for seen in {one["training"]: one for one in overlaps if one}.values():
        echo(f"{seen['training']} has seen {seen['seen']} of "
             f"{counted(seen['test_subjects'], 'tested subject')}.")  # fmt: skip
