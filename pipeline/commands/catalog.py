"""``fmritok catalog``: list the runs of a cohort."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fmritok.pipeline.commands.options import as_json, cohort_options, print_json
from fmritok.pipeline.commands.reasons import first_few, grouped
from fmritok.progress import Progress
from fmritok.quantities import count
from fmritok.terminal import labelled, new_console

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from fmritok.pipeline.catalog.cohort import Cohort, Input


@click.command()
@cohort_options
@as_json
def catalog(
    dataset: str, root: Path, name: str | None, tr: float | None, input: Input, as_json: bool
) -> None:
    """List the runs of a cohort, and skipped files with reasons.

    Files that are used although something in them is doubtful are listed, too. Only headers and
    tables are read; nothing is written.
    """
    from fmritok.pipeline.datasets import catalog_cohort

    with Progress("catalog"):
        cohort = catalog_cohort(dataset, root, tr=tr, input=input, name=name)
    if as_json:
        print_json(
            {
                "dataset": cohort.dataset,
                "input": input,
                # JSON has no NaN
                "runs": cohort.runs.astype(object)
                .where(cohort.runs.notna(), None)
                .to_dict("records"),
                "left_out": cohort.left_out.to_dict("records"),
                "questioned": cohort.questioned.to_dict("records"),
                "phenotypes": cohort.columns.to_dict("records"),
                "without_phenotypes": cohort.without_phenotypes,
                "events": len(cohort.events),
            }
        )
        return
    console = new_console()
    _print_runs(console, cohort)
    _print_subjects(console, cohort)
    runs = cohort.runs[cohort.runs["problem"] != ""]
    # without their paths and ids, equal problems of several runs are printed once
    problems = [
        (run_id, problem.replace(path, "the file").replace(run_id, "of the run"))
        for run_id, path, problem in _texts(runs, "run_id", "path", "problem")
    ]
    _print_reasons(console, "cannot be tokenized", problems)
    _print_reasons(console, "used, but check", _texts(cohort.questioned, "path", "reason"))
    _print_reasons(console, "left out", _texts(cohort.left_out, "path", "reason"))


def _print_runs(console: Console, cohort: Cohort) -> None:
    from rich.table import Table

    good = cohort.runs[cohort.runs["problem"] == ""]
    subjects = count(good["subject"].nunique(), "subject")
    title = f"{cohort.dataset}: {count(len(good), 'run')} of {subjects}"
    table = Table(title=title)
    keys = ["session", "task", "site"]
    for column in (*keys, "runs", "subjects", "frames", "TR (s)", "hours"):
        table.add_column(column, justify="left" if column in keys else "right")
    for names, some in good.groupby(keys):
        seconds = sorted({f"{x:.4g}" for x in some["tr"]})
        table.add_row(
            *map(str, names), str(len(some)), str(some["subject"].nunique()),
            f"{some['n_frames'].sum():,}", ", ".join(seconds),
            f"{(some['n_frames'] * some['tr']).sum() / 3600:.2f}",
        )  # fmt: skip
    console.print(table)


def _print_subjects(console: Console, cohort: Cohort) -> None:
    good = cohort.runs[cohort.runs["problem"] == ""]
    families = good["family"][good["family"] != ""].nunique()
    subjects = count(cohort.phenotypes["subject"].nunique(), "subject")
    console.print(
        f"Phenotypes: {count(len(cohort.columns), 'column')} of {subjects}; "
        f"families: {families or 'not known'}; events: {len(cohort.events)}"
    )
    missing = cohort.without_phenotypes
    if missing and len(cohort.phenotypes):
        console.print(
            f"{len(missing)} of {cohort.runs['subject'].nunique()} subjects with runs have no row "
            f"in the phenotype tables: {first_few(missing)}",
            soft_wrap=True,
        )


def _print_reasons(console: Console, title: str, items: Iterable[tuple[str, ...]]) -> None:
    """Print each reason once, with the number of items and a few examples."""
    for reason, names in grouped(items):
        line = labelled(title, f"({len(names)}): {reason}\n    {first_few(names)}")
        console.print(line, soft_wrap=True)


def _texts(table: pd.DataFrame, *columns: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[column].astype(str) for column in columns), strict=True))
