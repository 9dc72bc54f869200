"""``fmritok inspect``: show the content of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmritok.pipeline.commands.options import as_json, print_json, store_option

if TYPE_CHECKING:
    import pandas as pd

    from fmritok.pipeline.store.reader import TokenGroup

__all__ = ["inspect"]

#: Columns of a run that are the same in all groups.
_OF_RUN = ("run_id", "dataset", "subject", "session", "task", "site", "family", "tr")
#: Columns of a run that each group has of its own.
_OF_GROUP = ("start", "n_frames", "status", "reason")


@click.command()
@store_option
@click.option("--runs", "list_runs", is_flag=True, help="List the runs, one line each.")
@click.option("--phenotypes", "list_phenotypes", is_flag=True,
              help="List the phenotype columns with their values and number of "
              "subjects.")  # fmt: skip
@click.option("--group", metavar="NAME", help="Show this token group only.", show_default="all")
@click.option("--subject", "subjects", multiple=True, metavar="ID",
              help="List the runs of this subject only; repeatable.")  # fmt: skip
@click.option("--task", "tasks", multiple=True, metavar="NAME",
              help="List the runs of this task only, such as rest; repeatable.")  # fmt: skip
@click.option("--where", multiple=True, metavar="COLUMN=VALUE",
              help="List only runs with this value, such as status=failed or site=NYU; repeatable. "
              "Values of one column are alternatives.")  # fmt: skip
@as_json
def inspect(
    store: str,
    list_runs: bool,
    list_phenotypes: bool,
    group: str | None,
    subjects: tuple[str, ...],
    tasks: tuple[str, ...],
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the token groups, runs and phenotypes of a store.

    Reasons of missing runs are shown, too. --subject, --task and --where list only the runs that
    match; --runs is not needed then.
    """
    from fmritok.pipeline.commands.inspect_output import (
        print_groups,
        print_kinds,
        print_phenotypes,
        print_runs,
    )
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.pipeline.store.tables.phenotype_counts import count_phenotypes

    opened = TokenStore(store)
    names = opened.groups if group is None else (opened.group(group).name,)
    groups = {name: opened.group(name) for name in names}
    summaries = {
        name: {
            "shape": [int(one.runs["n_frames"].sum()), one.n_tokens, one.dim],
            "dtype": one.precision,
            "bytes": opened.location.used_bytes(name),
            "runs": {str(k): int(v) for k, v in one.all_runs["status"].value_counts().items()},
            "provenance": one.provenance,
            "contract": {k: v for k, v in one.contract.items() if k != "provenance"},
            "notes": one.notes,
        }
        for name, one in groups.items()
    }
    conditions = [
        *(f"subject={name}" for name in subjects), *(f"task={name}" for name in tasks), *where,
    ]  # fmt: skip
    runs = _runs(groups, conditions)
    counts = count_phenotypes(opened.phenotypes, opened.phenotype_columns)
    if as_json:
        print_json({"store": store, "groups": summaries, "runs": runs, "phenotypes": counts})
        return
    if list_runs or conditions:
        print_runs(runs)
    if list_phenotypes:
        print_phenotypes(counts)
    if not (list_runs or conditions or list_phenotypes):
        print_groups(store, summaries)
        print_kinds(runs)
        print_phenotypes(counts, most=10)


def _runs(groups: dict[str, TokenGroup], conditions: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs that match the conditions, with their state in each group."""
    runs: dict[str, dict[str, Any]] = {}
    for name, table in _chosen({name: g.all_runs for name, g in groups.items()}, conditions):
        for run in table.to_dict("records"):
            entry = runs.setdefault(
                run["run_id"],
                {key: run[key] for key in _OF_RUN} | {"status": "done", "reason": "", "groups": {}},
            )
            entry["groups"][name] = {key: run[key] for key in _OF_GROUP}
            if run["status"] != "done":
                entry["status"], entry["reason"] = run["status"], run["reason"]
    return list(runs.values())


def _chosen(
    tables: dict[str, pd.DataFrame], conditions: Sequence[str]
) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each group's runs table that match the conditions.

    Raises
    ------
    click.UsageError
        If a condition is not COLUMN=VALUE, or there is no such column or value.
    """
    known = [*_OF_RUN, "status"]
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or column not in known:
            raise click.UsageError(
                f"--where: expected COLUMN=VALUE with one of {', '.join(known)}, "
                f"got {condition!r}. For example: --where task=rest"
            )
        wanted.setdefault(column, []).append(value)
    for column, values in wanted.items():
        there = {text for table in tables.values() for text in table[column].astype(str)}
        for value in values:
            if value not in there and column != "status":
                some = ", ".join(sorted(there)[:10]) + (", ..." if len(there) > 10 else "")
                raise click.UsageError(
                    f"{column}={value}: expected a {column} of the store's runs ({some}), "
                    "got one that no run has."
                )
        tables = {n: table[table[column].astype(str).isin(values)] for n, table in tables.items()}
    return list(tables.items())
