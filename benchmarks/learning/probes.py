"""Compare linear probes of encoders trained in several ways and of untrained ones, over seeds.

    python benchmarks/learning/parcel_cohort.py --out parcels.zarr --subjects 200 --minutes 10
    python benchmarks/learning/probes.py --store parcels.zarr --way mtm=objective.name=mtm

A way is a name with ``--set`` options for the recipe. A model is trained for each seed. All are
probed on the same folds, beside untrained models of the same shape: ``gain`` is the mean difference
with its 95 % interval over the trained models. Training uses the runs of all subjects without
labels; a probe is never tested on a subject or family of its training units. ``connectivity`` is
`fmritok baseline` on the same folds.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np


@click.command()
@click.option("--store", required=True)
@click.option("--group", default="network", show_default=True)
@click.option("--recipe", default="tiny", show_default=True)
@click.option("--way", "ways", multiple=True, required=True, metavar="NAME=OPTION=VALUE,...")
@click.option("--task", "names", multiple=True, default=["demo-sex"], show_default=True)
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Runs to probe.")
@click.option("--seeds", default=5, show_default=True, help="Trainings, and divisions into folds.")
@click.option("--crops", default=8, show_default=True)
@click.option("--pool", type=click.Choice(["mean", "cells"]), default="mean", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("probes"), show_default=True,
              help="Folder of the trainings; finished ones are not repeated.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Append the table to this file.")
def main(
    store: str,
    group: str,
    recipe: str,
    ways: tuple[str, ...],
    names: tuple[str, ...],
    where: tuple[str, ...],
    seeds: int,
    crops: int,
    pool: Any,
    work: Path,
    out: Path | None,
) -> None:
    """Train, probe, and print a table."""
    import torch

    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.trainer.baselines.rows import baseline
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.evaluation.results import write_results
    from fmritok.trainer.probing.cache import FeatureCache
    from fmritok.trainer.probing.questions import ProbeOptions
    from fmritok.trainer.probing.rows import probe
    from fmritok.trainer.recipe import build_config, override, read_recipe
    from fmritok.trainer.record.folder import TrainingFolder
    from fmritok.trainer.tasks.task import SplitRule, read_task
    from fmritok.trainer.training.loop import Trainer
    from fmritok.trainer.training.setup import Setup

    command = shlex.join(["python", "benchmarks/learning/probes.py", *sys.argv[1:]])
    lines = [f"$ {command}", f"{'encoder':<14} {'task':<24} {'n':>5} {'metric':<18} "
             f"{'trained':>14} {'untrained':>10} {'gain (95 %)':>24}"
             "  trained, each seed"]  # fmt: skip

    def show(line: str) -> None:
        lines.append(line)
        click.echo(line)

    click.echo("\n".join(lines))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tasks = [replace(read_task(name), split=SplitRule("family", 5, seeds)) for name in names]
    for task in tasks if group == "network" else ():
        try:
            results = baseline(store, task, ["connectivity"], where=where, permutations=0)
        except ConfigError:  # windows of events are too short
            continue
        tree = write_results(work / "connectivity" / task.name, results)
        show(_line("connectivity", tree, [tree["rows"][0]], None))
    for way in ways:
        name, _, options = way.partition("=")
        folders = [work / f"{name}-{seed}" for seed in range(seeds)]
        for seed, folder in enumerate(folders):
            if not (folder / "done").exists():
                assignments = [*options.split(","), f"train.seed={seed}"]
                config = build_config(override(read_recipe(recipe), assignments))
                setup = Setup(folder=TrainingFolder(folder), device=device)
                Trainer(config, TokenStore(store).group(group), setup).run()
                (folder / "done").touch()
        how = ProbeOptions(pool=pool, untrained=True, crops=crops, permutations=0)
        probed = probe(store, tasks, folders, how, cache=FeatureCache(work / "features"),
                       device=device, group=group, where=where)  # fmt: skip
        for results in probed:
            tree = write_results(work / name / results.units.task.name, results)
            show(_line(name, tree, tree["rows"][::2], tree["rows"][1]))
    if out is not None:
        with out.open("a") as file:
            file.write("\n".join(lines) + "\n\n")


def _line(name: str, tree: Any, rows: list[Any], untrained: Any) -> str:
    """Return mean and standard deviation over the trained models, formatted."""
    from scipy import stats

    metric = tree["metric"]
    trained = np.array([row["figures"][metric]["mean"] for row in rows])
    head = f"{name:<14} {tree['task']:<24} {tree['n_units']:>5} {metric:<18} {trained.mean():>7.3f}"
    if untrained is None:
        return f"{head} ({rows[0]['figures'][metric]['sd'] or 0:.3f})"
    base = untrained["figures"][metric]["mean"]
    gain, sd = trained - base, np.std(trained, ddof=1)
    half = stats.t.ppf(0.975, len(gain) - 1) * sd / len(gain) ** 0.5
    interval = f"{gain.mean():+.3f} ({gain.mean() - half:+.3f}..{gain.mean() + half:+.3f})"
    each = " ".join(f"{value:.2f}" for value in trained)
    return f"{head} ({sd:.3f}) {base:>10.3f} {interval:>24}  {each}"


if __name__ == "__main__":
    main()
