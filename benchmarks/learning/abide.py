"""Sex, diagnosis and age of real subjects: ABIDE I, 734 subjects of 15 sites.

    python benchmarks/learning/abide.py --data ../shared/data/abide_cc200 --docs docs/abide.md

Tokenizes the parcel series, pretrains on the subjects that a split does not hold out, and scores
probes, fine-tuned encoders and baselines on those that it does. Everything is kept in the output
folder: the same command goes on.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
from abide_protocol import CONNECTIVITY, OBJECTIVES, SPLITS, merged, run_split, tokenize_abide

from fmritok.trainer.evaluation.results import write_results

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=_PATH, default=Path("abide"), show_default=True)
@click.option("--seeds", type=click.IntRange(1, 5), default=5, show_default=True)
@click.option("--steps", default=200, show_default=True, help="Of each pretraining.")
@click.option("--permutations", default=10, show_default=True)
@click.option("--task", "names", multiple=True, default=["sex", "diagnosis", "age"])
@click.option("--split", "kinds", multiple=True, default=SPLITS, type=click.Choice(SPLITS))
@click.option("--objective", "objectives", multiple=True, default=list(OBJECTIVES))
@click.option("--finetune", "finetuned", default="traits", show_default=True,
              help="Objective whose encoder is fine-tuned; none: no one's.")  # fmt: skip
@click.option("--workers", default=os.cpu_count(), show_default=True,
              help="Splits at a time, each on one core.")  # fmt: skip
@click.option("--docs", type=_PATH, help="Markdown file to write the tables to.")
def main(
    data: Path,
    out: Path,
    seeds: int,
    steps: int,
    permutations: int,
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    objectives: tuple[str, ...],
    finetuned: str,
    workers: int,
    docs: Path | None,
) -> None:
    """Pretrain, score, and print a table of each task and split."""
    began, store = time.monotonic(), out / "tokens.zarr"
    anew = not store.exists()
    if anew:
        tokenize_abide(data, store)
    fine = None if finetuned == "none" else finetuned
    run = functools.partial(
        run_split, store, out, objectives=objectives, steps=steps, names=names, finetuned=fine,
        permutations=permutations,
    )  # fmt: skip
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        jobs = {kind: [pool.submit(run, kind, seed) for seed in range(seeds)] for kind in kinds}
        splits = {kind: [job.result() for job in of_kind] for kind, of_kind in jobs.items()}
    tables = []
    for kind, name in itertools.product(kinds, names):
        folder = out / "scores" / f"{name}-{kind.partition(' ')[0]}"
        parts = [results[names.index(name)] for results in splits[kind]]
        tables.append(_table(write_results(folder, merged(parts)), kind))
        click.echo(tables[-1])
    if docs is not None:
        command = shlex.join(["python", "benchmarks/learning/abide.py", *sys.argv[1:]])
        took = f"{(time.monotonic() - began) / 60:.0f} minutes on {os.cpu_count()} cores"
        if not anew:
            took += ", with trainings and features of earlier goes"
        docs.write_text(_page(command, tables, took))


def _table(tree: dict[str, Any], kind: str) -> str:
    """Return the rows of a task, and their differences from connectivity, as Markdown."""
    metric = tree["metric"]
    less = {d["row"]: d for d in tree["differences"] if d["minus"] == CONNECTIVITY}
    title = f"## {tree['task']}, {kind}: {tree['n_units']} subjects, {metric}"
    lines = [title, "", "| row | mean | SD | 95 % interval | permuted | less connectivity |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in tree["rows"]:
        figure = row["figures"][metric]
        low, high = figure["interval"]
        by_chance = figure["chance"]["mean"] if figure["chance"] else None
        difference, gain = less.get(row["row"]), ""
        if difference is not None and difference["interval"] is not None:
            gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(
                difference["mean"], *difference["interval"]
            )
        lines.append(
            f"| {row['row']} | {figure['mean']:.3f} | {_shown(figure['sd'])} | "
            f"{low:.3f} to {high:.3f} | {_shown(by_chance)} | {gain} |"
        )
    return "\n".join(lines)


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def _page(command: str, tables: list[str], took: str) -> str:
    return "\n\n".join([
        "# ABIDE I: 734 subjects of 15 sites",
        f"Output of `{command}`: {took}. Each seed holds out other "
        "subjects (a fifth) or other sites (three of 15; in five seeds each once), from "
        "pretraining, too. Intervals: bootstrap over subjects. `mean` and `cells`: features of a "
        "linear probe, see [probes](probes.md). `and`: the mean of two models' predictions.",
        *tables, "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
