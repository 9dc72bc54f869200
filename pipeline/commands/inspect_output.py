"""What ``fmritok inspect`` prints: tables of groups, runs and phenotype columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fmritok.quantities import counted, size
from fmritok.terminal import labelled, new_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_groups", "print_kinds", "print_phenotypes", "print_runs"]

Runs = Sequence[Mapping[str, Any]]


def print_groups(store: str, groups: Mapping[str, Any]) -> None:
    """Print one line for each token group."""
    table = _table(store, "group", "frames+", "tokens x features", "dtype", "size+", "runs",
                   "made with")  # fmt: skip
    for name, group in groups.items():
        frames, tokens, dim = group["shape"]
        notes = group["notes"]
        source = _part(notes, "weights", "id") or notes.get("template") or notes.get("atlas")
        made = f"{source or ''} {_part(group['provenance'], 'intensity', 'mode')}".strip()
        table.add_row(
            name, f"{frames:,}", f"{tokens} x {dim}", group["dtype"], size(group["bytes"]),
            ", ".join(f"{n} {status}" for status, n in group["runs"].items()), made,
        )  # fmt: skip
    _console().print(table)


def print_kinds(runs: Runs) -> None:
    """Print one line for each dataset, task and site, and why runs failed."""
    table = _table("runs", "dataset", "task", "site", "subjects+", "runs+", "done+", "failed+",
                   "planned+")  # fmt: skip
    by_kind: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        by_kind[tuple(str(run[key] or "") for key in ("dataset", "task", "site"))].append(run)
    for kind, some in sorted(by_kind.items()):
        counts = [str(sum(r["status"] == s for r in some)) for s in ("done", "failed", "planned")]
        table.add_row(*kind, str(len({r["subject"] for r in some})), str(len(some)), *counts)
    console = _console()
    console.print(table)
    for run in runs:
        if run["status"] == "failed":
            line = labelled("failed", f"{run['run_id']}: {run['reason']}")
            console.print(line, soft_wrap=True)


def print_runs(runs: Runs) -> None:
    """Print one line for each run and, if they differ, for each of its groups."""
    table = _table("", "run", "subject", "session", "task", "site", "TR (s)+", "group", "frames+",
                   "status")  # fmt: skip
    for run in runs:
        of_run = (run["run_id"], run["subject"], run["session"], run["task"], run["site"])
        for name, of_group in run["groups"].items():
            status = of_group["status"]
            if of_group["reason"]:
                status += f": {of_group['reason']}"
            table.add_row(*(str(text or "") for text in of_run), f"{run['tr']:.4g}", name,
                          f"{of_group['n_frames']:,}", status)  # fmt: skip
    console = _console()
    console.print(table)
    subjects = {(run["dataset"], run["subject"]) for run in runs}
    console.print(f"{counted(len(runs), 'run')} of {counted(len(subjects), 'subject')}")


def print_phenotypes(counts: Runs, most: int | None = None) -> None:
    """Print one line for each phenotype column, or for the first few of them."""
    if not counts:
        _console().print("No phenotypes")
        return
    table = _table("phenotypes", "dataset", "column", "type", "subjects+", "different+", "values",
                   "unit")  # fmt: skip
    for one in counts[:most]:
        table.add_row(
            one["dataset"], one["column"], one["type"], f"{one['subjects']} of {one['of']}",
            str(one["different"]), _values(one), one["unit"],
        )  # fmt: skip
    console = _console()
    console.print(table)
    if most is not None and len(counts) > most:
        console.print(f"{counted(len(counts) - most, 'more column')}: fmritok inspect --phenotypes")


def _values(one: Mapping[str, Any]) -> str:
    """Return the range of numbers, or the most frequent values with their counts."""
    if "min" in one:
        return f"{one['min']:g} .. {one['max']:g}" if one["different"] else ""
    text = ", ".join(f"{value} ({count})" for value, count in one["values"].items())
    return text + (", ..." if one["different"] > len(one["values"]) > 0 else "")


def _part(tree: Mapping[str, Any], name: str, inner: str) -> str:
    """Return a text of a tree that others may have written; empty if there is none."""
    part = tree.get(name)
    return str(part.get(inner, "")) if isinstance(part, dict) else ""


def _table(title: str, *columns: str) -> Table:
    """Return an empty table; the name of a column of numbers ends in ``+``."""
    from rich.table import Table

    table = Table(title=title or None)
    for column in columns:
        right = column.endswith("+")
        table.add_column(column.removesuffix("+"), justify="right" if right else "left",
                         overflow="fold")  # fmt: skip
    return table


def _console() -> Console:
    """Return the console; a file or pipe is wide enough for a line of a table."""
    console = new_console()
    return console if console.is_terminal else new_console(width=200)
