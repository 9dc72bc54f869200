"""What ``abide.py`` does for one split: pretrain, and score every row on the held-out subjects.

A split is a seed: subjects or whole sites that no training sees, neither a pretraining nor a
model of a task.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fmritok.cli import main as fmritok
from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.baselines.rows import baseline
from fmritok.trainer.evaluation.crossval import FoldPrediction, Row, metrics_of
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.finetuning.config import finetune_config
from fmritok.trainer.finetuning.engine import Options, finetune
from fmritok.trainer.probing.cache import FeatureCache
from fmritok.trainer.probing.questions import ProbeOptions
from fmritok.trainer.probing.rows import probe
from fmritok.trainer.tasks.division import SplitOptions
from fmritok.trainer.tasks.task import Task, read_task

__all__ = [
    "OBJECTIVES",
    "SPLITS",
    "Split",
    "merged",
    "abide_task",
    "pretrain",
    "run_split",
    "score",
    "tokenize_abide",
]

DESCRIPTION = Path(__file__).with_name("abide.yaml")
SPLITS = ("subjects held out", "sites held out")
CONNECTIVITY = "connectivity (pearson)"

#: Recipe and options of each pretraining; windows of at most 100 frames, one small layer or two.
_SHAPE = (
    "data.window=100", "model.width=64", "model.layers=2", "model.heads=2", "model.kv_heads=2",
    "model.mlp_width=176", "model.patch=10", "train.validate_every=100000",
    "train.checkpoint_every=100000",
)  # fmt: skip
OBJECTIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "traits": ("traits", ("data.window=140", "objective.crop=70")),
    "semantoks": ("semantoks", (*_SHAPE, "objective.crop=60", "data.batch_size=32",
                                "objective.head_width=128", "objective.projection=32",
                                "optim.lr=5e-4", "train.epochs=null")),
    "mtm": ("tiny", (*_SHAPE, "objective.masking=random", "data.batch_size=16", "optim.lr=1e-3")),
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Held-out subjects or sites of one seed, and the trainings that did not see them."""

    kind: str
    seed: int
    trainings: dict[str, Path]


def tokenize_abide(data: Path, store: Path) -> None:
    """Tokenize ABIDE I from its archive and tables; the release has filtered it."""
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
        _run(
            "tokenize", "--dataset", "parcels", "--root", description, "--name", "abide",
            "--store", store, "--set", "network.band=null", "--set", "network.tr=null",
        )  # fmt: skip


def run_split(
    store: Path, out: Path, kind: str, seed: int, objectives: Sequence[str], steps: int,
    names: Sequence[str], finetuned: str | None, permutations: int,
) -> list[Results]:  # fmt: skip
    """Pretrain for one split on one core, and return the results of each task."""
    torch.set_num_threads(1)
    split = pretrain(store, out, kind, seed, objectives, steps)
    return [
        score(store, out, abide_task(name), split, finetuned=finetuned, permutations=permutations)
        for name in names
    ]


def abide_task(name: str) -> Task:
    """Return a shipped task of ABIDE; age is predicted as its logarithm."""
    task = read_task(f"abide-{name}")
    return replace(task, transform="log") if name == "age" else task


def pretrain(
    store: Path, out: Path, kind: str, seed: int, objectives: Iterable[str], steps: int
) -> Split:
    """Train each objective on the subjects that a split does not hold out; go on if interrupted."""
    held = f"data.split_seed={seed}"
    if kind == "sites held out":
        held = f"data.hold_out=site={','.join(_sites(store, seed))}"
    trainings = {}
    for name in objectives:
        recipe, options = OBJECTIVES[name]
        folder = out / "trainings" / f"{kind.partition(' ')[0]}-{seed}" / name
        if not (folder / "finished").exists():
            shutil.rmtree(folder, ignore_errors=True)
            assignments = (*options, held, f"train.seed={seed}", f"train.steps={steps}")
            _run("train", "-q", "--store", store, "--group", "network", "--recipe", recipe, "--out",
                 folder, *(word for one in assignments for word in ("--set", one)))  # fmt: skip
            (folder / "finished").touch()
        trainings[name] = folder
    return Split(kind, seed, trainings)


def score(
    store: Path, out: Path, task: Task, split: Split, *, finetuned: str | None, permutations: int
) -> Results:
    """Return all rows of a task on the held-out subjects of one split."""
    held_out = SplitOptions(held_out=next(iter(split.trainings.values())))
    found = baseline(
        str(store), task, ["connectivity", "nuisance", "dummy"], regress=["site", "motion"],
        split=held_out, permutations=permutations,
    )  # fmt: skip
    rows = list(found.rows)
    cache = FeatureCache(out / "features")
    for pool in ("mean", "cells"):
        how = ProbeOptions(pool=pool, untrained=True, permutations=permutations)
        (probed,) = probe(
            str(store), [task], list(split.trainings.values()), how, cache=cache,
            device=torch.device("cpu"), split=held_out,
        )  # fmt: skip
        names = [name for one in split.trainings for name in (one, f"{one}, untrained")]
        rows += [
            replace(row, name=f"{name}, {pool}")
            for row, name in zip(probed.rows, names, strict=True)
        ]
    (connectivity,) = (row for row in rows if row.name == CONNECTIVITY)
    rows += [
        _with(connectivity, row, found) for row in rows
        if row.name.partition(",")[0] in split.trainings and "untrained" not in row.name
    ]  # fmt: skip
    if finetuned is not None:
        folder = out / "finetuned" / f"{split.kind.partition(' ')[0]}-{split.seed}" / task.name
        options = Options(source=split.trainings[finetuned], split=held_out)
        tuned = finetune(str(store), task, finetune_config("default", ["train.epochs=8"]), folder,
                         options, device=torch.device("cpu"))  # fmt: skip
        rows += [replace(row, name=f"{finetuned}, {row.name}") for row in tuned.rows[1:]]
    return replace(found, rows=tuple(rows))


def merged(parts: Sequence[Results]) -> Results:
    """Join the splits of all seeds: each is a seed with one fold."""
    first = parts[0]
    rows = [
        Row(
            of_row[0].name,
            tuple(_of_seed(row.predictions[0], seed) for seed, row in enumerate(of_row)),
            of_row[0].details,
        )
        for of_row in zip(*(part.rows for part in parts), strict=True)
    ]
    folds = tuple(replace(part.folds[0], seed=seed) for seed, part in enumerate(parts))
    return replace(first, folds=folds, rows=tuple(rows))


def _of_seed(found: FoldPrediction, seed: int) -> FoldPrediction:
    return replace(found, fold=replace(found.fold, seed=seed))


def _with(one: Row, other: Row, results: Results) -> Row:
    """Return the mean of two models' predictions; nothing is fitted."""
    units, predictions = results.units, []
    for a, b in zip(one.predictions, other.predictions, strict=True):
        scores = (a.scores + b.scores) / 2
        found = metrics_of(units, a.test, scores, a.sd, np.ones((1, len(a.test))))
        metrics = {name: float(values[0]) for name, values in found.items()}
        no_permutations = dict.fromkeys(metrics, np.empty(0))
        predictions.append(replace(a, scores=scores, metrics=metrics, permuted=no_permutations))
    return Row(f"{one.name} and {other.name}", tuple(predictions))


def _sites(store: Path, seed: int, n_seeds: int = 5) -> list[str]:
    """Return every fifth site, from the largest to the smallest: each is held out once."""
    sizes = TokenStore(str(store)).runs["site"].value_counts()
    ordered = sorted(sizes.index, key=lambda name: (-sizes[name], name))
    return ordered[seed % n_seeds :: n_seeds]


def _run(*words: object) -> None:
    fmritok([str(word) for word in words], standalone_mode=False)
