"""Baselines on real subjects: connectivity and nuisance variables on ABIDE I, 734 of 15 sites.

    python benchmarks/learning/abide_baseline.py --data ../shared/data/abide_cc200 --seeds 2

Tokenizes the parcel series as ``--dataset parcels`` (abide.yaml), without filter and resampling,
which the release has done. Scores sex, diagnosis and the logarithm of age, sites mixed in the folds
and each site left out, with sites and motion regressed out and not. Each subject has one run of 3
to 10 minutes. An existing store is used as it is.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

DESCRIPTION = Path(__file__).with_name("abide.yaml")


def tokenize_abide(data: Path, store: Path, *options: str) -> None:
    """Tokenize ABIDE I from its archive and tables, or from a folder where it is unpacked."""
    from fmritok.cli import main as fmritok

    with tempfile.TemporaryDirectory() as scratch:
        folder, root = Path(scratch), data.absolute()
        if (data / "abide_cc200.tar.xz").exists():
            with tarfile.open(data / "abide_cc200.tar.xz") as archive:
                archive.extractall(folder, filter="data")
            root = folder / "abide_cc200"
        for table in {*data.glob("*.csv"), *root.glob("*.csv")}:
            shutil.copyfile(table, folder / table.name)
        description = folder / DESCRIPTION.name
        description.write_text(f"root: {root}\n{DESCRIPTION.read_text()}")
        fmritok(["tokenize", "--dataset", "parcels", "--root", str(description), "--name", "abide",
                 "--store", str(store), *options], standalone_mode=False)  # fmt: skip


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--store", type=click.Path(path_type=Path), default=Path("abide.zarr"),
              show_default=True)  # fmt: skip
@click.option("--seeds", default=5, show_default=True)
@click.option("--permutations", default=0, show_default=True)
@click.option("--connectivity", "kind", default="pearson", show_default=True)
@click.option("--task", "names", multiple=True, default=["sex", "diagnosis", "age"])
@click.option("--by", "rules", multiple=True, default=["family", "leave-site-out"])
@click.option("--out", type=click.Path(path_type=Path), default=Path("abide"), show_default=True)
def main(
    data: Path,
    store: Path,
    seeds: int,
    permutations: int,
    kind: Any,
    names: tuple[str, ...],
    rules: tuple[Any, ...],
    out: Path,
) -> None:
    """Score, write the results of each task, and print a table."""
    from fmritok.trainer.baselines.rows import baseline
    from fmritok.trainer.evaluation.results import write_results
    from fmritok.trainer.tasks.task import SplitRule, read_task

    if not store.exists():
        tokenize_abide(data, store, "--set", "network.band=null", "--set", "network.tr=null")
    click.echo(f"{'task':<16} {'folds':<15} {'row':<40} {'n':>4}  {'metric':<6} mean (95 %)")
    for name in names:
        task = read_task(f"abide-{name}")
        if name == "age":
            task = replace(task, transform="log")
        for by in rules:
            ruled = replace(task, split=SplitRule(by, 5, seeds))
            results = baseline(
                str(store), ruled, ["connectivity", "nuisance", "dummy"],
                kind_of_connectivity=kind, regress=["site", "motion"], permutations=permutations,
            )  # fmt: skip
            tree = write_results(out / f"{name}-{by}", results)
            for row in tree["rows"]:
                figure = row["figures"][task.metric]
                low, high = figure["interval"]
                click.echo(f"{task.name:<16} {by:<15} {row['row']:<40} {len(results.units):>4}  "
                           f"{task.metric:<6} {figure['mean']:.3f} "
                           f"({low:.3f} to {high:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
