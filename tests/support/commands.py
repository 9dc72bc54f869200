"""The commands of the offline half, as tests run them."""

from __future__ import annotations

import json
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
