"""Adapters: one module per cohort layout, each a function from a root folder to a catalogue."""

from __future__ import annotations

from importlib import import_module

from fmritok.pipeline.catalog import Adapter
from fmritok.pipeline.errors import CatalogError, expected

__all__ = ["DATASETS", "get_adapter"]

DATASETS = {
    "adhd200": "fmritok.pipeline.datasets.adhd200:catalog_adhd200",
    "bids": "fmritok.pipeline.datasets.bids:catalog_bids",
    "demo": "fmritok.pipeline.datasets.hcp:catalog_demo",
    "hcp": "fmritok.pipeline.datasets.hcp:catalog_hcp",
    "ukb": "fmritok.pipeline.datasets.ukb:catalog_ukb",
}


def get_adapter(dataset: str) -> Adapter:
    """Return the adapter of a cohort.

    Raises
    ------
    CatalogError
        If there is none of that name.
    """
    if dataset not in DATASETS:
        raise CatalogError(
            expected("Dataset", dataset, f"one of {', '.join(DATASETS)}", "an unknown name",
                     "Check --dataset.")
        )  # fmt: skip
    module, _, function = DATASETS[dataset].partition(":")
    adapter: Adapter = getattr(import_module(module), function)
    return adapter
