"""Baselines on real subjects: connectivity and nuisance variables on ABIDE I, 734 of 15 sites.

    python benchmarks/learning/abide_baseline.py --data ../shared/data/abide_cc200 --seeds 2

Parcel series go to the engine as they are, without a store: sex, diagnosis and the logarithm of
age, sites mixed in the folds and each site left out, with sites and motion regressed out and not.
Each subject has one run of 3 to 10 minutes.
"""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd


def read_abide(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """Return runs, phenotypes and the parcel series (n_frames, n_parcels) of each run."""
    (table_file,) = folder.glob("Phenotypic*.csv")
    table = pd.read_csv(table_file, dtype={"SUB_ID": str})
    series = {}
    for name in table["FILE_ID"]:
        values = np.loadtxt(folder / "rois_cc200" / f"{name}_rois_cc200.1D", dtype=np.float32)
        series[name] = values - values.mean(0)
    shared = {"dataset": "abide", "subject": table["SUB_ID"], "session": ""}
    runs = pd.DataFrame({**shared, "run_id": table["FILE_ID"], "task": "rest", "family": "",
                         "site": table["SITE_ID"],
                         "n_frames": [len(series[name]) for name in table["FILE_ID"]]})  # fmt: skip
    phenotypes = pd.DataFrame({**shared, "sex": table["SEX"], "age": table["AGE_AT_SCAN"],
                               "dx_group": table["DX_GROUP"],
                               "mean_fd": table["func_mean_fd"]})  # fmt: skip
    return runs, phenotypes, series


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--permutations", default=0, show_default=True)
@click.option("--connectivity", "kind", default="pearson", show_default=True)
@click.option("--task", "names", multiple=True, default=["sex", "diagnosis", "age"])
@click.option("--by", "rules", multiple=True, default=["family", "leave-site-out"])
@click.option("--out", type=click.Path(path_type=Path), default=Path("abide"), show_default=True)
def main(
    data: Path,
    seeds: int,
    permutations: int,
    kind: Any,
    names: tuple[str, ...],
    rules: tuple[Any, ...],
    out: Path,
) -> None:
    """Score, write the results of each task, and print a table."""
    from fmritok.trainer.baselines.connectivity import connectivity
    from fmritok.trainer.baselines.features import Columns
    from fmritok.trainer.baselines.material import NUISANCE, nuisance_table
    from fmritok.trainer.baselines.rows import score_features
    from fmritok.trainer.evaluation.results import Results, write_results
    from fmritok.trainer.tasks.splits import folds_of
    from fmritok.trainer.tasks.task import SplitRule, read_task
    from fmritok.trainer.tasks.units import units_of, without_units

    with tempfile.TemporaryDirectory() as scratch:
        if (data / "abide_cc200.tar.xz").exists():
            with tarfile.open(data / "abide_cc200.tar.xz") as archive:
                archive.extractall(scratch, filter="data")
            runs, phenotypes, series = read_abide(Path(scratch) / "abide_cc200")
        else:
            runs, phenotypes, series = read_abide(data)
    click.echo(f"{'task':<16} {'folds':<15} {'row':<40} {'n':>4}  {'metric':<6} mean (95 %)")
    for name in names:
        task = read_task(f"abide-{name}")
        if name == "age":
            task = replace(task, transform="log")
        units = units_of(task, runs, phenotypes)
        nuisance, _ = nuisance_table(NUISANCE, units, phenotypes, asked=False)
        lacking = nuisance.isna().any(axis=1).to_numpy()
        units = without_units(units, lacking, "nuisance variable missing")
        nuisance = nuisance[~lacking].reset_index(drop=True)
        first = units.runs["run_id"].to_numpy()[np.argsort(units.labels.of_row)][lacking.sum() :]
        features, details = connectivity([series[run] for run in first], kind)
        for by in rules:
            ruled = replace(units, task=replace(units.task, split=SplitRule(by, 5, seeds)))
            folds = folds_of(ruled, ruled.task.split)
            rows = score_features(
                ruled, folds, f"connectivity ({kind})", features, details=details,
                confounds=nuisance[["site", "motion"]], permutations=permutations,
            )  # fmt: skip
            rows += score_features(ruled, folds, "nuisance", Columns(nuisance),
                                   permutations=permutations)  # fmt: skip
            rows += score_features(ruled, folds, "dummy", None)
            results = Results(ruled, tuple(folds), tuple(rows))
            tree = write_results(out / f"{name}-{by}", results)
            for row in tree["rows"]:
                figure = row["figures"][task.metric]
                low, high = figure["interval"]
                click.echo(f"{task.name:<16} {by:<15} {row['row']:<40} {len(units):>4}  "
                           f"{task.metric:<6} {figure['mean']:.3f} "
                           f"({low:.3f} to {high:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
