"""The commands of the offline half, as tests run them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tiny import fmritok

from fmritok.pipeline.store.location import Location


def tokenize(root: Path, store: object, weights: str, *more: object, executor: str = "serial"):
    return fmritok(
        "tokenize", "--dataset", "hcp", "--root", root, "--store", store, "--weights", weights,
        "--executor", executor, *more,
    )  # fmt: skip


def inspect(store: object) -> dict:
    return json.loads(fmritok("inspect", "--store", store, "--json").output)


def written(store: Path) -> dict[str, bytes]:
    """Return every object that holds tokens or what belongs to them."""
    location = Location(store)
    tables = ("vae/runs/", "vae/chunks/")
    keys = [k for k in location.find("vae") if "/c/" in k and not k.startswith(tables)]
    return {key: location.read(key) for key in keys}


def started(command: Sequence[str], out: Path, rows: int) -> subprocess.Popen[str]:
    """Start a training, and return its process when it has logged so many steps."""
    from fmritok.trainer.record.metrics import read_metrics

    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (out / "metrics.jsonl").exists() or len(read_metrics(out)) < rows:
        assert process.poll() is None
        time.sleep(0.02)
    return process
