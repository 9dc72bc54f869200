"""Compare linear probes of encoders trained in several ways and of untrained ones, over seeds.

    python benchmarks/learning/parcel_cohort.py --out parcels.zarr --subjects 200 --minutes 10
    python benchmarks/learning/probes.py --store parcels.zarr --target sex --target trial_type \
        --way mtm=objective.name=mtm --way distill=objective.name=distill,objective.apart=true

A way is a name with ``--set`` options for the recipe. For each seed, a model is trained, probed in
the folds of that seed and compared with an untrained model of the same shape and seed: ``gain`` is
the mean difference with its 95 % interval. Training uses the runs of all subjects without labels; a
probe is never tested on a subject or family of its training units.

``connectivity`` is a baseline without an encoder: correlations of the networks' mean time courses
with the same linear probe.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

FIGURES = ("auc", "balanced_accuracy", "r")


def connectivity(store: str, targets: Sequence[str], where: Sequence[str], seeds: int) -> Any:
    """Return labels and connectivity scores of targets; none for events or other groups.

    Works on the token group ``network``, whose courses are z-scored already.
    """
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.trainer.data.labels import EVENT_TARGET, labels_of, runs_where
    from fmritok.trainer.evaluation.probe import probe

    opened = TokenStore(store)
    group = opened.group("network")
    network = group.array("network")
    runs = runs_where(group.runs, where).sort_values("run_id", ignore_index=True)
    features = []
    for run in runs.to_dict("records"):
        courses = group.read(run["start"], run["n_frames"])[:, :, 0].astype(np.float64)
        means = np.stack([courses[:, network == i].mean(1) for i in np.unique(network)])
        features.append(np.arctanh(np.corrcoef(means)[np.triu_indices(len(means), 1)]))
    for target in targets:
        if target != EVENT_TARGET:
            labels = labels_of(target, runs, opened.phenotypes)
            yield labels, probe(np.array(features), labels, runs, seeds=range(seeds))


@click.command()
@click.option("--store", required=True)
@click.option("--group", default="network", show_default=True)
@click.option("--recipe", default="tiny", show_default=True)
@click.option("--way", "ways", multiple=True, required=True, metavar="NAME=OPTION=VALUE,...")
@click.option("--target", "targets", multiple=True, default=["sex"], show_default=True)
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Runs to probe.")
@click.option("--seeds", default=5, show_default=True)
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
    targets: tuple[str, ...],
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
    from fmritok.trainer.evaluation.probing import probe_trainings
    from fmritok.trainer.recipe import build_config, override, read_recipe
    from fmritok.trainer.training.loop import Trainer

    command = shlex.join(["python", "benchmarks/learning/probes.py", *sys.argv[1:]])
    lines = [f"$ {command}", f"{'encoder':<16} {'target':<12} {'n':>5} {'figure':<18} "
             f"{'trained':>14} {'untrained':>14} {'gain (95 %)':>22}"
             "  trained, each seed"]  # fmt: skip

    def show(line: str) -> None:
        lines.append(line)
        click.echo(line)

    click.echo("\n".join(lines))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if group == "network":
        for labels, scores in connectivity(store, targets, where, seeds):
            figure = next(name for name in FIGURES if name in scores[0].figures)
            values = np.array([score.figures[figure] for score in scores])
            show(_line("connectivity", labels, figure, values, None))
    for way in ways:
        name, _, options = way.partition("=")
        chosen: dict[str, tuple[Any, str, list[list[float]]]] = {}
        for seed in range(seeds):
            folder = work / f"{name}-{seed}"
            if not (folder / "done").exists():
                assignments = [*options.split(","), f"train.seed={seed}"]
                config = build_config(override(read_recipe(recipe), assignments))
                Trainer(config, TokenStore(store).group(group), out=folder, device=device).run()
                (folder / "done").touch()
            rows = probe_trainings(
                store, group, [folder], targets, untrained=True, seeds=[seed], folds=5,
                crops=crops, workers=0, device=device, where=where, pool=pool,
            )  # fmt: skip
            for i, row in enumerate(rows):
                figures = row.scores[0].figures
                figure = next(n for n in FIGURES if n in figures)
                kept = chosen.setdefault(row.labels.target, (row.labels, figure, [[], []]))
                kept[2][i // len(targets)].append(figures[figure])
        for labels, figure, (trained, untrained) in chosen.values():
            show(_line(name, labels, figure, np.array(trained), np.array(untrained)))
    if out is not None:
        with out.open("a") as file:
            file.write("\n".join(lines) + "\n\n")


def _line(name: str, labels: Any, figure: str, trained: Any, untrained: Any) -> str:
    """Return mean and standard deviation over seeds, formatted."""
    from scipy import stats

    head = f"{name:<16} {labels.target:<12} {len(labels.values):>5} {figure:<18} "
    head += f"{trained.mean():>7.3f} ({np.std(trained, ddof=1):.3f})"
    if untrained is None:
        return head
    gain = trained - untrained
    half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
    head += f" {untrained.mean():>7.3f} ({np.std(untrained, ddof=1):.3f})"
    low, high = gain.mean() - half, gain.mean() + half
    head += f" {gain.mean():>+7.3f} ({low:+.3f}..{high:+.3f})"
    return f"{head}  {' '.join(f'{value:.2f}' for value in trained)}"


if __name__ == "__main__":
    main()
