"""A small store with planted effects and a quick training on it, for tests of probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from stores import write_store

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.trainer.recipe import build_config, override
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.training.loop import Trainer
from fmritok.trainer.training.setup import Setup

SMALL = ["data.window=8", "data.batch_size=4", "model.width=16", "model.layers=1",
         "model.mlp_width=16", "train.steps=2"]  # fmt: skip
SEXES, LENGTHS = ("M", "F"), (20, 9)
TRIALS = ("left", "right")


def planted(run: int, n: int) -> np.ndarray:
    """Tokens of men oscillate faster; ``left`` and ``right`` have patterns in frames 2 to 5."""
    rng = np.random.default_rng(run)
    x = 3 + 0.1 * rng.standard_normal((n, 3, 4))
    speed = 3.0 if (run // 2) % 2 == 0 else 0.8
    x += 0.3 * np.sin(speed * np.arange(n))[:, None, None]
    x[2:6, run % 2] += 1.0
    return x


def probed_store(folder: Path, n_subjects: int = 12, sexes: list[str] | None = None) -> str:
    """Write two runs of each subject, of different length; by default, sex has an effect."""
    subjects = [f"{100 + i // 2}" for i in range(2 * n_subjects)]
    location = Location(folder / "tokens.zarr")
    write_store(location, list(LENGTHS) * n_subjects, n_tokens=3, dim=4, subjects=subjects,
                values=planted)  # fmt: skip
    names = sorted(set(subjects))
    people = pd.DataFrame(
        {"dataset": "demo", "subject": names, "session": "",
         "sex": sexes or [SEXES[i % 2] for i in range(n_subjects)],
         "age": 20.0 + np.random.default_rng(0).permutation(n_subjects)}
    )  # fmt: skip
    events = pd.DataFrame(
        [(f"demo_{s}_run{i}", 1.44, 2.0, TRIALS[i % 2]) for i, s in enumerate(subjects)],
        columns=["run_id", "onset", "duration", "trial_type"],
    )
    write_annotations(location, {"phenotypes": people, "events": events})
    return location.url


def quick_training(store: str, out: Path, *overrides: str) -> Path:
    """Train for two steps."""
    config = build_config(override({}, [*SMALL, *overrides]))
    setup = Setup(folder=TrainingFolder(out), device=torch.device("cpu"))
    Trainer(config, TokenStore(store).group(), setup).run()
    return out
