"""Adapters: one module per cohort layout, each a function from a root folder to a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmritok.errors import CatalogError
from fmritok.pipeline.catalog.cohort import Adapter, Cohort, Input
from fmritok.registry import Registry

__all__ = ["DATASETS", "catalog_cohort", "default_tokenizers", "get_adapter"]

#: Other distributions register adapters in the entry-point group ``fmritok.datasets``.
DATASETS = Registry(
    "Dataset",
    "fmritok.datasets",
    {
        "adhd200": "fmritok.pipeline.datasets.adhd200:catalog_adhd200",
        "bids": "fmritok.pipeline.datasets.bids:catalog_bids",
        "demo": "fmritok.pipeline.datasets.hcp:catalog_demo",
        "hcp": "fmritok.pipeline.datasets.hcp:catalog_hcp",
        "parcels": "fmritok.pipeline.datasets.parcels:catalog_parcels",
        "ukb": "fmritok.pipeline.datasets.ukb:catalog_ukb",
    },
    CatalogError,
)


def get_adapter(dataset: str) -> Adapter:
    """Return the adapter of a cohort.

    Raises
    ------
    CatalogError
        If there is no adapter of that name.
    """
    adapter: Adapter = DATASETS.find(dataset)
    return adapter


def default_tokenizers(dataset: str, root: Path) -> dict[str, dict[str, Any]]:
    """Return the tokenizers that a cohort gets unasked, with options that the cohort defines.

    Raises
    ------
    CatalogError
        If the description of parcel time courses is wrong.
    """
    if dataset != "parcels":
        return {"vae": {}}
    from fmritok.pipeline.datasets.parcels import network_options

    return {"network": network_options(root)}


def catalog_cohort(
    dataset: str,
    root: Path,
    *,
    tr: float | None = None,
    input: Input = "volume",
    name: str | None = None,
) -> Cohort:
    """Catalogue the cohort below ``root``.

    Parameters
    ----------
    dataset : str
        Layout of the cohort: one of :data:`DATASETS`.
    root : Path
    tr : float, optional
        Repetition time to use for every run instead of the headers', s.
    input : {"volume", "surface"}
        Representation of the runs to catalogue.
    name : str, optional
        Other name for the cohort. With it, two cohorts of the same layout can share a store.

    Raises
    ------
    CatalogError
    """
    cohort = get_adapter(dataset)(root, tr=tr, input=input)
    return cohort.named(name) if name else cohort
