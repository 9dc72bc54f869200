"""Measure the validation loss against the number of subjects, and fit a power law.

    python benchmarks/learning/scaling.py --store tokens.zarr --subjects 8,16,32,64 \
        --set train.steps=400

One training per number and seed, with equally many steps, on nested subsets of the subjects
(``data.subjects``). Held-out subjects depend on the seed only. The lowest validation loss of a
training counts (early stopping): models overfit few subjects. Run it again to resume.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np


@click.command()
@click.option("--store", required=True)
@click.option("--group")
@click.option("--subjects", default="8,16,32,64", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--recipe", default="tiny", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C")
@click.option("--figure", default="loss", show_default=True, help="Of the validation.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--resamplings", default=1000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("trainings/scaling"),
              show_default=True, help="Trainings, scaling.json and scaling.png.")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path), help="Instead of OUT/scaling.png.")
def main(
    store: str,
    group: str | None,
    subjects: str,
    seeds: int,
    recipe: str,
    overrides: tuple[str, ...],
    figure: str,
    device: str,
    resamplings: int,
    out: Path,
    picture: Path | None,
) -> None:
    """Train, fit, draw, and print a table."""
    from power_law import draw, fit, interval, resample

    sizes = sorted({int(size) for size in subjects.split(",")})
    if len(sizes) < 4:
        raise click.UsageError("--subjects: three numbers are fitted, so give four or more.")
    rows = []
    for seed in range(seeds):
        for size in sizes:
            options = [*overrides, f"data.subjects={size}", f"data.split_seed={seed}",
                       f"train.seed={seed}"]  # fmt: skip
            folder = out / f"subjects-{size:05d}-seed-{seed}"
            row = train(store, group, recipe, options, folder, device, figure)
            rows.append({"subjects": size, "seed": seed, **row})
            click.echo(
                f"{size} subjects, seed {seed}: {row[figure]:.5f} at step {row['step']}", err=True
            )
    n = np.array(sizes, np.float64)
    loss_SN = np.array([row[figure] for row in rows]).reshape(seeds, len(sizes))
    steps_SN = np.array([row["step"] for row in rows]).reshape(seeds, len(sizes))
    law = fit(n, loss_SN.mean(0))
    laws = resample(n, loss_SN, times=resamplings)
    draw(picture or out / "scaling.png", n, loss_SN, law, laws, f"validation {figure}")

    click.echo(f"{'subjects':>8} {figure:>9} {'spread':>8} {'law':>9} {'best step':>10}")
    for i, size in enumerate(sizes):
        spread = f"{loss_SN[:, i].std(ddof=1):.5f}" if seeds > 1 else "-"
        click.echo(f"{size:>8} {loss_SN[:, i].mean():>9.5f} {spread:>8} {law(size):>9.5f} "
                   f"{steps_SN[:, i].mean():>10.0f}")  # fmt: skip
    twice = 2 * sizes[-1]
    low, high = interval([one(twice) for one in laws])
    click.echo(f"{twice:>8} {'?':>9} {'':>8} {law(twice):>9.5f}  (90 %: {low:.5f} to {high:.5f})")
    trivial = np.mean([row["trivial"] for row in rows])
    click.echo(f"a trivial model: {trivial:.5f}; mean over {seeds} seeds, spread between them")
    parameters = {}
    for name, value in asdict(law).items():
        parameters[name] = {"value": value, "90 %": interval([getattr(one, name) for one in laws])}
    shown = ", ".join(
        f"{name} = {one['value']:.4g} ({one['90 %'][0]:.4g} to {one['90 %'][1]:.4g})"
        for name, one in parameters.items()
    )
    click.echo(f"L(n) = a + b n^-c: {shown}; 90 % of {resamplings} resamplings")
    last = sum(row["step"] == row["last_step"] for row in rows)
    if last:
        click.echo(
            f"{last} of {len(rows)} trainings were best at their last step: train longer before "
            "taking what remains for what no amount of data goes below."
        )
    if law.at_the_edge:
        click.echo("The exponent is at the edge of what was tried: these data do not tell it.")
    text = json.dumps({"trainings": rows, "law": parameters}, indent=1)
    (out / "scaling.json").write_text(text)


def train(
    store: str,
    group: str | None,
    recipe: str,
    options: list[str],
    folder: Path,
    device: str,
    figure: str,
) -> dict[str, float]:
    """Return the lowest validation figure, its step and its baseline."""
    import torch
    from rich.console import Console

    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.trainer.recipe import build_config, override, read_recipe
    from fmritok.trainer.record.folder import TrainingFolder
    from fmritok.trainer.record.metrics import read_metrics
    from fmritok.trainer.training.loop import Trainer

    config = build_config(override(read_recipe(recipe), options))
    trainer = Trainer(
        config,
        TokenStore(store).group(group),
        out=folder,
        device=torch.device(device),
        resume=folder if TrainingFolder(folder).checkpoints() else None,
        console=Console(quiet=True),
    )
    trainer.run()
    shown = next(one for one in trainer.model.figures if one.name == figure)
    rows = [row for row in read_metrics(folder) if row["kind"] == "validation"]
    best = min(rows, key=lambda row: float(row[figure]))
    return {
        figure: best[figure],
        "trivial": best[shown.trivial],
        "step": best["step"],
        "last_step": rows[-1]["step"],
    }


if __name__ == "__main__":
    main()
