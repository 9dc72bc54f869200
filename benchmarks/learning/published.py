"""Train our form of each published method beside its published form, with equal steps.

    python benchmarks/learning/published.py --out docs/published.md

Recipes ``tablet``, ``cortexmae`` and ``semantoks`` and their forms ``-published`` are trained on
tokens of a demo cohort and of a real run. Both forms have the same small sizes, windows, batches,
rate and steps: what else differs is what the recipes differ in (docs/parity.md). The real run is
that of ``objectives.py``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from objectives import COLUMNS, DEFAULT_DATA, demo_store, real_store, train

#: Token group of each recipe.
RECIPES = {"tablet": "vae", "cortexmae": "flatmap", "semantoks": "network"}
#: Share of the demo cohort.
HELD_OUT = 0.2
#: For both forms.
SMALL = ("model.width=128", "model.layers=2", "model.heads=4", "model.kv_heads=2",
         "model.mlp_width=512", "data.batch_size=8", f"data.validation_fraction={HELD_OUT}",
         "optim.lr=1e-3", "optim.warmup=0.05", "train.dtype=fp32", "train.epochs=null")  # fmt: skip
#: More, by recipe.
OPTIONS = {
    "tablet": ("data.windows_per_run=8",),
    "cortexmae": ("objective.decoder_width=64", "objective.decoder_layers=1",
                  "objective.decoder_heads=2", "data.windows_per_run=8"),
    "semantoks": ("data.windows_per_run=8", "objective.head_width=128", "objective.projection=32"),
}  # fmt: skip
#: Windows, by data and recipe: runs of the demo cohort have 30 frames of ``network``, and held out
#: of the real run are 51 frames.
WINDOWS = {
    ("demo", "tablet"): ("data.window=16",),
    ("demo", "cortexmae"): ("data.window=16",),
    ("demo", "semantoks"): ("data.window=24", "objective.crop=15", "model.patch=5"),
    ("real", "tablet"): ("data.window=8",),
    ("real", "cortexmae"): ("data.window=16",),
    ("real", "semantoks"): ("data.window=16", "objective.crop=10", "model.patch=2"),
}
DEMO = """\
- **demo**: simulated subjects with two runs of a minute each, {} to train on. Held out: `subjects`,
  {} others, families kept together.
"""
REAL = """\
- **real**: frames 0-99 of one run (visual one-back, TR 2 s). Held out: `later`, its frames 105-155,
  so the same subject.
"""
HEAD = """\
# Our recipes beside the published ones

```text
{command}
```

Tiny trainings, which say whether both forms of a method learn, and not how well they do at their
own size. Each is trained once, for {steps} steps, from seed 0, without a GPU:

{data}- Both forms: `{small}`.
{options}
These replace what the recipes say, also where their forms differ in it (warm-up, validation share,
data type). All other options are the recipe's; [parity.md](parity.md) lists those in which the
forms differ. No option was tuned.

`ratio` is the loss relative to the mean token, that is to predicting each token's mean over its own
run. For self-distillation it is the collapsed loss relative to the loss, a weak baseline
([objectives.md](objectives.md)); `align` is better evidence there, and is 0 without information
about the window. Below 1 is better. `windows` is the number of windows that a row is averaged over;
they overlap by three quarters. Rows `(trained)` are of the training data.

**Compare the forms with care.** `tablet` predicts deviations from the run's mean (`model.input` is
`both`), `tablet-published` whole tokens (`absolute`), which are mostly anatomy. Its mean token is
the anatomy of the very run, which hidden cells do not show. It also has no positions, as the
released code: all hidden tokens of a window get one prediction. Its ratio is therefore far above 1,
and says little about activity. Tokens of `flatmap` and `network` are z-scored in time: there both
inputs have a mean near 0. With one training each, differences of a few hundredths mean nothing.

| data | recipe | held out | windows | loss | mean token or collapsed | ratio | align |
|---|---|---|---|---|---|---|---|
"""
FOOT = """
Took {minutes:.0f} minutes of CPU time, {tokens:.0f} of them for cohorts and tokens; those that
`--folder` had were kept.
"""


def introduction(stores: dict[str, Path], names: Sequence[str], steps: int) -> str:
    """Return the page down to the head of its table."""
    data = {"real": REAL}
    if "demo" in stores:
        data["demo"] = DEMO.format(*subjects_of(stores["demo"], RECIPES[names[0]]))
    options = [
        f"- `{name}`, {kind}: `{' '.join((*OPTIONS[name], *WINDOWS[kind, name]))}`.\n"
        for name in names
        for kind in stores
    ]
    return HEAD.format(
        command=f"python benchmarks/learning/published.py {' '.join(sys.argv[1:])}".rstrip(),
        steps=steps, data="".join(data[kind] for kind in stores), small=" ".join(SMALL),
        options="".join(options),
    )  # fmt: skip


def subjects_of(store: Path, group_name: str) -> tuple[int, int]:
    """Return the numbers of subjects that are trained on and held out."""
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.trainer.data.split import split_runs

    runs = TokenStore(store).group(group_name).runs
    split = split_runs(runs, fraction=HELD_OUT, seed=0)
    subject = runs.set_index("run_id")["subject"]
    train, held_out = (subject[list(side)].nunique() for side in (split.train, split.validation))
    return train, held_out


def cpu_minutes() -> float:
    """Return the CPU time of this process and of the commands that it ran."""
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) / 60


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
                 row["ratio"], row["align"])  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_DATA, show_default=True)
@click.option("--recipes", default=",".join(RECIPES), show_default=True)
@click.option("--steps", default=300, show_default=True)
@click.option("--subjects", default=4, show_default=True, help="Of the demo cohort.")
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
        tokens = cpu_minutes()
        page = introduction(stores, names, steps)
        click.echo(page, nl=False)
        for kind, store in stores.items():
            for recipe in (form for name in names for form in (name, f"{name}-published")):
                lines = "\n".join(rows_of(kind, store, recipe, Path(place), steps)) + "\n"
                click.echo(lines, nl=False)
                page += lines
    page += FOOT.format(minutes=cpu_minutes(), tokens=tokens)
    if out is not None:
        out.write_text(page)


if __name__ == "__main__":
    main()
