"""``fmritok catalog``: what a cohort on disk holds."""

from __future__ import annotations

from pathlib import Path

import click

from fmritok.pipeline.commands.options import as_json, cohort_options, print_json


@click.command()
@cohort_options
@as_json
def catalog(dataset: str, root: Path, tr: float | None, as_json: bool) -> None:
    """List a cohort's runs, and what is left out with its reason; only headers are read."""
    from rich.console import Console
    from rich.table import Table

    from fmritok.pipeline.datasets import get_adapter

    cohort = get_adapter(dataset)(root, tr=tr)
    runs = cohort.runs
    if as_json:
        print_json(
            {
                "dataset": cohort.dataset,
                "runs": runs.astype({"path": str}).to_dict("records"),
                "left_out": cohort.left_out.to_dict("records"),
                "phenotypes": list(cohort.phenotypes.columns[2:]),
            }
        )
        return
    console = Console()
    good = runs[runs["problem"] == ""]
    table = Table(title=f"{dataset}: {len(good)} runs of {good['subject'].nunique()} subjects")
    for column in ("session", "task", "runs", "subjects", "frames", "TR (s)", "hours"):
        table.add_column(column, justify="left" if column in ("session", "task") else "right")
    for (session, task), some in good.groupby(["session", "task"]):
        seconds = sorted({f"{x:g}" for x in some["tr"]})
        table.add_row(
            str(session), str(task), str(len(some)), str(some["subject"].nunique()),
            f"{some['n_frames'].sum():,}", ", ".join(seconds),
            f"{(some['n_frames'] * some['tr']).sum() / 3600:.2f}",
        )  # fmt: skip
    console.print(table)
    families = good["family"][good["family"] != ""].nunique()
    console.print(
        f"Phenotypes: {max(0, cohort.phenotypes.shape[1] - 2)} columns of "
        f"{len(cohort.phenotypes)} subjects; families: {families or 'not known'}"
    )
    for run in runs[runs["problem"] != ""].itertuples():
        console.print(f"[red]cannot be tokenized[/red] {run.run_id}: {run.problem}", soft_wrap=True)
    for row in cohort.left_out.itertuples():
        console.print(f"left out {row.path}: {row.reason}", soft_wrap=True)
