"""A small store with planted effects, a training on it, and fine-tunings of seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from labelled import FRAMES, labelled_store
from tiny import fmritok

from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.finetuning.config import finetune_config
from fmritok.trainer.finetuning.engine import Options, finetune
from fmritok.trainer.tasks.task import SplitRule, Task, read_task

N_SUBJECTS = 32
#: A model of 2 layers, windows of half a run.
SMALL = ["data.window=20", "data.batch_size=8", "model.width=16", "model.layers=2",
         "model.mlp_width=16", "model.patch=5", "train.steps=4"]  # fmt: skip
QUICK = ["train.epochs=3", "optim.lr=1e-2", "data.batch_size=32"]


def series(subject: int, rng: np.random.Generator) -> np.ndarray:
    """Men's first two parcels oscillate; the older, the stronger do the last three."""
    x, time = rng.standard_normal((FRAMES, 6)), np.arange(FRAMES)
    if subject % 2 == 0:
        x[:, :2] += 2 * np.sin(time * np.pi / 4 + rng.uniform(0, 6))[:, None]
    x[:, 3:] += 3 * subject / N_SUBJECTS * np.sin(time * np.pi / 5 + rng.uniform(0, 6))[:, None]
    return x


def planted_store(folder: Path, **more: Any) -> str:
    """Write 32 subjects, two of each family, one run each."""
    people = pd.DataFrame(
        {"sex": ["M", "F"] * (N_SUBJECTS // 2), "age": 20.0 + np.arange(N_SUBJECTS)}
    )
    location = labelled_store(
        folder, series, people, networks=[0, 0, 0, 1, 1, 1], runs=1,
        family=lambda subject: f"F{subject // 2}", **more,
    )  # fmt: skip
    return str(location.url)


def small_training(store: str, folder: Path) -> Path:
    """Pretrain for a few steps."""
    settings = [x for assignment in SMALL for x in ("--set", assignment)]
    done = fmritok("train", "--store", store, "--recipe", "tiny", "--out", folder, "--device",
                   "cpu", "--loader-workers", 0, *settings)  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def a_demo_task(name: str = "demo-sex", by: Any = "family", folds: int = 2) -> Task:
    return replace(read_task(name), split=SplitRule(by, folds, 1))


def fine_tuned(
    store: str, out: Path, *assignments: str, task: Task | None = None, **options: Any
) -> Results:
    """Fine-tune for a few epochs on the CPU, by default without the twin."""
    config = finetune_config("default", [*QUICK, *assignments])
    options.setdefault("twin", False)
    return finetune(store, task or a_demo_task(), config, out, Options(**options),
                    device=torch.device("cpu"))  # fmt: skip
