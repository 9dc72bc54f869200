"""Train our form of each published method beside its published form, with equal steps.

    python benchmarks/learning/published.py --out docs/published.md

Recipes ``tablet``, ``cortexmae`` and ``semantoks`` and their forms ``-published`` are trained on
tokens of a demo cohort (two held-out subjects) and of a real run (its first 100 frames; held out
are frames 105-155). Both forms have the same small sizes, windows, batches, rate and steps: what
differs is what the recipes differ in (docs/parity.md). docs/objectives.txt explains the data.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from objectives import COLUMNS, DEFAULT_DATA, demo_store, real_store, train

#: Token group of each recipe.
RECIPES = {"tablet": "vae", "cortexmae": "flatmap", "semantoks": "network"}
#: For both forms.
SMALL = ("model.width=128", "model.layers=2", "model.heads=4", "model.kv_heads=2",
         "model.mlp_width=512", "data.batch_size=8", "data.validation_fraction=0.2",
         "optim.lr=1e-3", "optim.warmup=0.05", "train.dtype=fp32", "train.epochs=null")  # fmt: skip
#: More, by recipe.
OPTIONS = {
    "tablet": ("data.windows_per_run=8",),
    "cortexmae": ("objective.decoder_width=64", "objective.decoder_layers=1",
                  "objective.decoder_heads=2", "data.windows_per_run=8"),
    "semantoks": ("data.windows_per_run=8", "objective.head_width=128", "objective.projection=32"),
}  # fmt: skip
#: Windows, by data and recipe: runs of the demo cohort have 30 frames of ``network``.
WINDOWS = {
    ("demo", "tablet"): ("data.window=16",),
    ("demo", "cortexmae"): ("data.window=16",),
    ("demo", "semantoks"): ("data.window=28", "objective.crop=20", "model.patch=5"),
    ("real", "tablet"): ("data.window=8",),
    ("real", "cortexmae"): ("data.window=8",),
    ("real", "semantoks"): ("data.window=8", "objective.crop=8", "model.patch=2"),
}
HEAD = """\
# Our recipes beside the published ones

{command}

Small models on two CPU cores, {steps} steps each; sizes, windows, batches and rate are the same for
both forms, and no option was tuned. `ratio` is the loss relative to that of the mean token, or, for
self-distillation, the collapsed loss relative to the loss; below 1 is better. The forms of one
method have different inputs (`residual`, `absolute`) and masks: compare ratios, not losses. Rows
`(trained)` are of the training data. One training each: differences of a few hundredths mean
nothing. [parity.md](parity.md) lists the options in which the forms differ.

| data | recipe | held out | windows | loss | mean token or collapsed | ratio | align | seconds |
|---|---|---|---|---|---|---|---|---|
"""


def rows_of(kind: str, store: Path, recipe: str, folder: Path, steps: int) -> list[str]:
    """Train one recipe on one kind of data; return a line of the table per held-out part."""
    method = recipe.removesuffix("-published")
    options = [*SMALL, *OPTIONS[method], *WINDOWS[kind, method], f"train.steps={steps}"]
    group = RECIPES[method]
    lines = []
    for values in train(kind, store, group, folder / f"{kind}-{recipe}", options, recipe):
        row = dict(zip(COLUMNS, values, strict=True))
        if row["held out"] == "other":  # ten frames of another subject: too few for a figure
            continue
        trivial = row["mean"] if row["mean"] != "-" else row["collapsed"]
        cells = (kind, f"`{recipe}`", row["held out"], row["windows"], row["loss"], trivial,
                 row["ratio"], row["align"], row["seconds"])  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_DATA, show_default=True)
@click.option("--recipes", default=",".join(RECIPES), show_default=True)
@click.option("--steps", default=400, show_default=True)
@click.option("--subjects", default=8, show_default=True, help="Of the demo cohort.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep cohorts and stores.")
@click.option("--skip", type=click.Choice(["demo", "real"]))
@click.option("--out", type=click.Path(path_type=Path), help="Keep what is printed.")
def main(
    data: Path,
    recipes: str,
    steps: int,
    subjects: int,
    folder: Path | None,
    skip: str | None,
    out: Path | None,
) -> None:
    """Print a page."""
    command = f"    python benchmarks/learning/published.py {' '.join(sys.argv[1:])}".rstrip()
    page = HEAD.format(command=command, steps=steps)
    click.echo(page, nl=False)
    names = recipes.split(",")
    groups = [RECIPES[name] for name in names]
    with tempfile.TemporaryDirectory() as place:
        kept = folder or Path(place)
        kept.mkdir(parents=True, exist_ok=True)
        stores = {}
        if skip != "demo":
            stores["demo"] = demo_store(kept, groups, subjects)
        if skip != "real":
            stores["real"] = real_store(kept, groups, data)
        for kind, store in stores.items():
            for recipe in (form for name in names for form in (name, f"{name}-published")):
                lines = "\n".join(rows_of(kind, store, recipe, Path(place), steps)) + "\n"
                click.echo(lines, nl=False)
                page += lines
                if out is not None:
                    out.write_text(page)


if __name__ == "__main__":
    main()
